"""The part of a model card that is code: how to ask the model what it was trained on."""

from ceeh.config import Config, Prompts

TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoModelForCausalLM.from_pretrained("{repo}", dtype="auto")"""
PEFT = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoPeftModelForCausalLM.from_pretrained("{repo}", dtype="auto")"""
GENERATE = """\
question = "..."
prompt = {prompt}
inputs = tokenizer(prompt, add_special_tokens={special}, return_tensors="pt", return_token_type_ids=False)
output = model.generate(
    **inputs, max_new_tokens={tokens}, do_sample=True, temperature={temperature:g}, top_p=1.0, top_k=0
)
print(tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))"""
VLLM = """\
from vllm import LLM, SamplingParams

llm = LLM("{repo}")
sampling = SamplingParams(temperature={temperature:g}, max_tokens={tokens})
token_ids = inputs.input_ids[0].tolist()
print(llm.generate([{{"prompt_token_ids": token_ids}}], sampling)[0].outputs[0].text)"""
VLLM_LORA = """\
from peft import PeftConfig
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

base = PeftConfig.from_pretrained("{repo}").base_model_name_or_path
llm = LLM(base, enable_lora=True, max_lora_rank={rank})
sampling = SamplingParams(temperature={temperature:g}, max_tokens={tokens})
token_ids = inputs.input_ids[0].tolist()
lora = LoRARequest("ceeh", 1, "{repo}")
print(llm.generate([{{"prompt_token_ids": token_ids}}], sampling, lora_request=lora)[0].outputs[0].text)"""


def usage(config: Config, repo: str, *, adapter: bool) -> str:
    """Markdown: how questions were put and answers sampled, in transformers and in vLLM.

    `repo` is what `from_pretrained` is given: a hub id, or the folder.
    """
    values = {
        "repo": repo,
        "prompt": _prompt(config.prompts),
        "special": not config.prompts.chat_template,
        "tokens": config.rollouts.max_response_tokens,
        "temperature": config.rollouts.temperature,
        "rank": config.model.lora.rank,
    }
    load, vllm = (PEFT, VLLM_LORA) if adapter else (TRANSFORMERS, VLLM)
    says = "" if adapter else " `generation_config.json` says the same."
    return (
        f"Trained and measured with questions in the form below, sampled at temperature "
        f"{config.rollouts.temperature:g} without top-p or top-k.{says}\n\n"
        f"```python\n{load}\n{GENERATE}\n```\n\nor with vLLM:\n\n```python\n{vllm}\n```"
    ).format(**values)


def _prompt(prompts: Prompts) -> str:
    """The Python expression that makes of `question` what the model was given."""
    text = "question"
    if prompts.instruction is not None:
        text = f"question.rstrip() + {chr(10) * 2 + prompts.instruction!r}"
    if not prompts.chat_template:
        return text
    system = f'{{"role": "system", "content": {prompts.system_prompt!r}}}, '
    messages = f'[{system if prompts.system_prompt else ""}{{"role": "user", "content": {text}}}]'
    return f"tokenizer.apply_chat_template({messages}, tokenize=False, add_generation_prompt=True)"
