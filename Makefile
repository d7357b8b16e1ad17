# make fit: environment, then the first run.   make test: environment, then the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With an NVIDIA GPU at hand the CUDA build of vLLM, otherwise the CPU build.
DEVICE ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
# PyTorch's CPU builds live on its own index; asked for this one package only, since an index that
# cannot be reached costs seconds for every package of a call.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# Two cores are the least machine; each process builds engines of its own.
TEST_PROCESSES ?= 2
# Python compiles a module when it is first imported; compiling all of them takes 50 seconds and most are never used.
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q --no-compile

# Further arguments of pytest for `make test` and `make slow`.
PYTEST_ARGUMENTS ?=

.PHONY: env fit smollm2 starter test coverage slow audit lint lock clean bench bench-env bench-check faults

env: $(VENV)/.ready-$(DEVICE)

$(VENV)/.ready-cpu: requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing the CPU environment into $(VENV): a few minutes ..."
	$(PIP) --no-deps "$$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements/cpu.in)" --extra-index-url $(TORCH_CPU_INDEX)
	$(PIP) --no-deps -r requirements/cpu.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.ready-cuda: requirements/cuda.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing the CUDA environment into $(VENV): several minutes ..."
	$(PIP) -e ".[cuda,dev]" -c requirements/cuda.txt
	@touch $@

fit: env
	$(BIN)/python -m ceeh.fit --config configs/ceeh.yaml

# A real language model on word problems, from the wheel to the export: examples/smollm2/README.md.
smollm2: env
	$(BIN)/python examples/smollm2/convert.py
	$(BIN)/python -m ceeh.sft --config configs/examples/smollm2_sft.yaml ckpt_path=last
	$(BIN)/python -m ceeh.fit --config configs/ceeh.yaml --config configs/examples/smollm2_cpu.yaml ckpt_path=last
	for model in smollm2-warm smollm2_cpu; do $(BIN)/python -m ceeh.evaluate runs/$$model \
	  --benchmarks legs tracking.mlflow=false || exit 1; done
	$(BIN)/python -m ceeh.compare warm=evaluations/smollm2-warm ceeh=runs/smollm2_cpu
	$(BIN)/python -m ceeh.export runs/smollm2_cpu exported/smollm2 --force

# How the shipped starter model was made: docs/starter.md. Resumes where it was stopped.
starter: env
	test -f runs/starter-untrained/tokenizer.json || $(BIN)/python -m ceeh.starter untrained runs/starter-untrained
	$(BIN)/python -m ceeh.sft --config configs/starter/arithmetic.yaml ckpt_path=last
	$(BIN)/python -m ceeh.sft --config configs/starter/styles.yaml ckpt_path=last
	$(BIN)/python -m ceeh.fit --config configs/ceeh.yaml --config configs/methods/grpo.yaml \
	  --config configs/starter/correctness.yaml ckpt_path=last
	for stage in styles correctness; do $(BIN)/python -m ceeh.starter table runs/starter-$$stage/model || exit 1; done

# The reference of `python -m benchmarks.update` and `.step`: TRL in an environment of its own. On a CPU the same
# torch as ours comes first, so that no dependency asks for the CUDA build; on a GPU vLLM comes with it.
bench-env: .venv-trl/.ready-$(DEVICE)

# Half an hour on two cores. Each is also run alone: python -m benchmarks.NAME --help
bench: env bench-env
	for name in update step rollouts push tables growth head balance sharding; do $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(BIN)/python -m benchmarks.check

bench-check: env
	$(BIN)/python -m benchmarks.check

# Fault injection into real runs: half an hour on two quiet cores; writes docs/reliability.md.
faults: env
	$(BIN)/python -m fault_injection

.venv-trl/.ready-cuda: benchmarks/requirements.txt requirements/cuda.txt
	$(PYTHON) -m venv .venv-trl
	@echo "installing TRL and vLLM into .venv-trl: several minutes ..."
	.venv-trl/bin/python -m pip install --disable-pip-version-check -q vllm \
	  $$(grep '^trl\|^datasets\|^psutil' benchmarks/requirements.txt) -c requirements/cuda.txt
	@touch $@

.venv-trl/.ready-cpu: benchmarks/requirements.txt requirements/cpu.in
	$(PYTHON) -m venv .venv-trl
	@echo "installing TRL into .venv-trl: a minute or two ..."
	.venv-trl/bin/python -m pip install --disable-pip-version-check -q --no-deps \
	  "$$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements/cpu.in)" --extra-index-url $(TORCH_CPU_INDEX)
	.venv-trl/bin/python -m pip install --disable-pip-version-check -q -r benchmarks/requirements.txt
	@touch $@

test: env
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "not slow" $(PYTEST_ARGUMENTS)

# Apart from `test`, which it makes half as long again.
coverage:
	$(MAKE) test PYTEST_ARGUMENTS="--cov=ceeh --cov-report=term-missing:skip-covered"

slow: env
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m slow $(PYTEST_ARGUMENTS) \
	  $$(grep -rl pytest.mark.slow tests | sort -r)  # the longest ones first, and no other file is collected

# Known vulnerabilities and malicious uploads among what is locked. In an environment of its own, and not a
# failure where the advisories cannot be reached: tests/security/test_dependencies.py knows the worst.
audit:
	@test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit && \
	  $(VENV)-audit/bin/python -m pip install --disable-pip-version-check -q pip-audit; }
	@said=$$($(VENV)-audit/bin/pip-audit --disable-pip --no-deps --progress-spinner off \
	  -r requirements/cpu.txt 2>&1); code=$$?; echo "$$said" | tail -n 60; case "$$said" in \
	  *"ould not connect"*|*"onnection"*|*"esolve"*|*"imed out"*) echo "audit: the advisories could not be" \
	  "reached, so nothing was checked; run it again with a network"; exit 0;; \
	  *"could not be audited"*) echo "audit: of $$(echo "$$said" | grep -c "could not be audited") packages" \
	  "the service that was reached knows nothing; those were not checked"; esac; exit $$code

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Needs uv (pip install uv). torch stays out of the lock: see above.
lock:
	uv pip compile requirements/cpu.in --override requirements/cpu-overrides.txt --universal \
	  --python-version 3.11 --no-annotate --no-header --extra-index-url $(TORCH_CPU_INDEX) -q -o requirements/cpu.txt
	sed -i '/^torch==/d; /never/d' requirements/cpu.txt

clean:
	rm -rf $(VENV) $(VENV)-audit .venv-trl runs mlflow.db mlartifacts
