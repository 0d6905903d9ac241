"""Rows without labels: what is read of them, which of their tokens are learned, and what is refused."""

import json
from typing import Any

import numpy as np
import pytest
import tiny_causal
from peft_tradeoffs.core.errors import Faults, InputError
from peft_tradeoffs.tasks.metrics import METRICS, OF_TEXT
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.tasks.texts import ALPACA, Encoded

SFT, LM = (TASKS[name].reader for name in ("sft", "lm"))
COMPLETIONS = {"source": "files", "prompt": "prompt", "completion": "completion"}
CHATS = {"source": "files", "messages": "messages"}
GENERATION = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|im_start|>assistant\n{% generation %}"
    "{{ message['content'] }}<|im_end|>{% endgeneration %}\n{% else %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
)
EXCHANGE = [{"role": "user", "content": "the dog"}, {"role": "assistant", "content": "d.*"}]
TWO = [*EXCHANGE, {"role": "user", "content": "a truck"}, {"role": "assistant", "content": "t.*"}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_causal.tokenizer()


def learned(tokenizer: Any, row: Encoded) -> list[str]:
    """The runs of target tokens as text."""
    found, before = [], False
    for token, target in zip(row.ids, row.targets, strict=True):
        if target:
            found = (
                [*found[:-1], found[-1] + tokenizer.decode([token])] if before else [*found, tokenizer.decode([token])]
            )
        before = target
    return found


def encode(tokenizer: Any, block: dict[str, Any], *rows: tuple[str, ...], max_length: int = 64) -> list[Encoded]:
    reader = SFT if block is not LM else LM
    return reader.encode(tokenizer, list(rows), reader.form("datasets.x", block), max_length)


def texts(block: dict[str, Any], reader: Any = SFT, **columns: list[Any]) -> list[tuple[str, ...]]:
    """What is read of columns; raises InputError for what is wrong in a row."""
    count = len(next(iter(columns.values())))
    faults = Faults("rows.jsonl", "line")
    found = reader.texts(reader.form("datasets.x", block), columns, range(1, count + 1), faults)
    if faults.kinds:
        from peft_tradeoffs.core.errors import refuse

        refuse([faults])
    return found


def test_a_completion_is_learned_with_its_end_and_the_prompt_is_not(tokenizer):
    (row,) = encode(tokenizer, COMPLETIONS, ("the dog", " d.*"))
    assert learned(tokenizer, row) == [" d.*<|im_end|>"]
    assert tokenizer.decode(row.ids) == "the dog d.*<|im_end|>"


def test_a_token_across_the_border_is_of_the_completion(tokenizer):
    """Prompt and completion are one text; tokenised apart they would be other tokens."""
    prompt, completion = "lines wit", "h a"
    apart = tokenizer(prompt)["input_ids"] + tokenizer(completion)["input_ids"]
    (row,) = encode(tokenizer, COMPLETIONS, (prompt, completion))
    assert row.ids[:-1] == tokenizer(prompt + completion)["input_ids"] != apart
    assert learned(tokenizer, row) == [" with a<|im_end|>"]


def test_an_end_that_stands_there_already_is_not_doubled_and_is_learned(tokenizer):
    (row,) = encode(tokenizer, COMPLETIONS, ("the dog", " d.*<|im_end|>"))
    assert row.ids.count(tokenizer.eos_token_id) == 1
    assert row.targets[-1]


def test_where_pad_is_eos_the_end_is_learned_all_the_same():
    (row,) = encode(tiny_causal.tokenizer(pad_token="<|im_end|>"), COMPLETIONS, ("the dog", " d.*"))
    assert row.targets[-1] and row.ids[-1] == 2


def test_what_max_length_cuts_is_no_target_and_the_length_is_that_of_all(tokenizer):
    (row,) = encode(tokenizer, COMPLETIONS, ("the dog and the truck", " d.*t.*"), max_length=6)
    (whole,) = encode(tokenizer, COMPLETIONS, ("the dog and the truck", " d.*t.*"))
    assert len(row.ids) == len(row.targets) == 6 < row.length == len(whole.ids)
    assert row.ids == whole.ids[:6]


def test_the_first_token_is_no_target(tokenizer):
    """Nothing stands before it."""
    (row,) = LM.encode(tokenizer, [("the dog",)], LM.form("x", {"source": "files", "text": ["text"]}), 64)
    assert row.targets == [False, *[True] * (len(row.ids) - 1)]


@pytest.mark.parametrize("template", [None, GENERATION], ids=["by what a turn adds", "marked by the template"])
def test_of_a_chat_every_turn_of_the_assistant_is_learned_or_the_last(tokenizer, template):
    own = {"chat_template": template} if template else {}
    (row,) = encode(tokenizer, CHATS | own, (json.dumps(TWO),))
    assert learned(tokenizer, row) == ["d.*<|im_end|>", "t.*<|im_end|>"]
    (row,) = encode(tokenizer, CHATS | own | {"loss_on": "last"}, (json.dumps(TWO),))
    assert learned(tokenizer, row) == ["t.*<|im_end|>"]
    assert "user\na truck" in tokenizer.decode(row.ids)


def test_a_prompt_with_a_template_is_a_users_turn(tokenizer):
    (row,) = encode(tokenizer, COMPLETIONS | {"chat_template": "tokenizer"}, ("the dog", "d.*"))
    (chat,) = encode(tokenizer, CHATS, (json.dumps(EXCHANGE),))
    assert row == chat


def test_instructions_are_written_as_alpacas_or_are_a_users_turn():
    block = {"source": "files", "instruction": "instruction", "input": "input", "output": "output"}
    columns = {"instruction": ["Match it", "Match"], "input": ["the dog", ""], "output": ["d.*", ".*"]}
    (first, answer), (second, _) = texts(block, **columns)
    assert "### Instruction:\nMatch it\n\n### Input:\nthe dog\n\n### Response:\n" in first
    assert second == ALPACA.format(with_input="", instruction="Match", input="")
    assert answer == "d.*"
    (first, _), (second, _) = texts(block | {"chat_template": "tokenizer"}, **columns)
    assert (first, second) == ("Match it\n\nthe dog", "Match")


def test_share_gpts_turns_become_roles_and_contents():
    turns = [{"from": "human", "value": "the dog"}, {"from": "gpt", "value": "d.*"}]
    assert texts(CHATS, messages=[turns]) == [(json.dumps(EXCHANGE),)]
    assert texts(CHATS, messages=[json.dumps(turns)]) == [(json.dumps(EXCHANGE),)]


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "is no list of turns"),
        ("hello", "is text and no JSON list of turns"),
        ({"role": "user"}, "is no list of turns"),
        ([{"content": "a"}], "a turn without a role"),
        ([{"role": "narrator", "content": "a"}], "has the role 'narrator'; one of system, user, assistant, tool"),
        ([{"role": "user", "content": "a"}], "has no assistant's turn"),
        ([{"role": ["user"], "content": "a"}], "has the role ['user']"),
        (EXCHANGE[1:], "begins with the assistant's turn"),
        ([EXCHANGE[0], {**EXCHANGE[1], "name": {1, 2}}], "has a turn that is no JSON"),
        ([EXCHANGE[0], {**EXCHANGE[1], "name": "\ud800"}], "half of a surrogate pair"),
        ([{"role": "user", "content": None}, EXCHANGE[1]], "a turn without a text"),
        ([EXCHANGE[0], {"role": "assistant", "content": " "}], "an assistant's turn that is empty"),
        ([EXCHANGE[0], {"role": "assistant", "content": "\ud800"}], "half of a surrogate pair"),
    ],
)
def test_a_bad_chat_is_one_line_with_its_place(turns, said):
    with pytest.raises(InputError, match="line 2") as refused:
        texts(CHATS, messages=[EXCHANGE, turns])
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [None, "", " \u200b", 3])
def test_a_completion_that_is_no_text_is_refused(value):
    with pytest.raises(InputError, match=r"line 1.*'completion'"):
        texts(COMPLETIONS, prompt=["a"], completion=[value])


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({}, "none is given"),
        ({"prompt": "p"}, "config key datasets.x.completion: prompt needs it too"),
        ({"completion": "c"}, "config key datasets.x.prompt: prompt needs it too"),
        ({"prompt": "p", "completion": "c", "messages": "m"}, "prompt and messages are two ways at once"),
        ({"prompt": "p", "completion": "p"}, "config key datasets.x.completion: p is read before it too"),
        ({"messages": "m", "chat_template": "tokeniser"}, "chat_template: 'tokeniser' is no template in Jinja"),
        ({"prompt": "p", "completion": "c", "input": "i"}, "config key datasets.x.input: it goes with instruction"),
        ({"prompt": "p", "completion": "c", "tools": "t"}, "config key datasets.x.tools: they go with messages"),
        ({"messages": "m", "tools": "m"}, "config key datasets.x.tools: m is read as messages"),
        ({"prompt": "p", "completion": "c", "loss_on": "last"}, "config key datasets.x.loss_on: it goes with messages"),
        ({"messages": "m", "text": ["t"]}, "config key datasets.x.text: sft reads prompt and completion"),
        ({"messages": "m", "label": "l"}, "config key datasets.x.label: sft does not take it"),
        ({"messages": "m", "positive_class": "l"}, "config key datasets.x.positive_class: sft does not take it"),
        ({"source": "docstrings", "messages": "m"}, "config key datasets.x.task: docstrings have no completions"),
    ],
)
def test_a_block_that_does_not_say_what_is_learned_is_refused(block, said):
    with pytest.raises(InputError) as refused:
        TASKS["sft"].check_block("datasets.x", {"source": "files", **block})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({}, "config key datasets.x.text: lm takes one text column"),
        ({"text": ["a", "b"]}, "config key datasets.x.text: lm takes one text column"),
        ({"text": ["a"], "label": "l"}, "config key datasets.x.label: lm does not take it"),
        ({"text": ["a"], "chat_template": "tokenizer"}, "config key datasets.x.chat_template: lm does not take it"),
    ],
)
def test_a_block_of_plain_texts_names_one_column(block, said):
    with pytest.raises(InputError) as refused:
        TASKS["lm"].check_block("datasets.x", {"source": "files", **block})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "block", "said"),
    [
        ({"chat_template": None}, {}, "the tokenizer has no chat template"),
        (
            {},
            {"chat_template": "{{ raise_exception('no system') }}"},
            "row 1: the chat template refuses a chat: no system",
        ),
        ({}, {"chat_template": "{{ messages[0]['name'] + 1 }}"}, "row 1: the chat template refuses a chat"),
        ({}, {"chat_template": "{% for"}, "row 1: the chat template refuses a chat"),
        ({}, {"chat_template": "{{ strftime_now('%d') }}"}, "the chat template writes the day on which it is used"),
        (
            {},
            {"chat_template": "{{ messages | length }}{{ messages[-1].content }}"},
            "writes a turn otherwise once others",
        ),
    ],
)
def test_a_template_that_does_not_do_is_one_line(changes, block, said):
    with pytest.raises(InputError) as refused:
        encode(tiny_causal.tokenizer(**changes), CHATS | block, (json.dumps(TWO),))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_tokenizer_without_an_end_is_refused():
    with pytest.raises(InputError, match="no eos token, so a completion would never end"):
        encode(tiny_causal.tokenizer(eos_token=None), COMPLETIONS, ("a", "b"))


NUMBERS = np.array([[6.0, 3, 1], [1.0, 1, 1], [5.0, 2, 0]])


def test_metrics_count_tokens_and_not_texts():
    scored = TASKS["sft"].predicted(np.arange(3), np.zeros(3), NUMBERS)
    found = TASKS["sft"].evaluate(scored)
    assert found["token_loss"] == found["loss"] == 2.0
    assert found["perplexity"] == pytest.approx(np.exp(2.0))
    assert found["token_accuracy"] == pytest.approx(2 / 6)
    assert {name for name, value in found.items() if value is not None} == {"loss", *TASKS["lm"].metrics}


@pytest.mark.parametrize("name", TASKS["lm"].metrics)
@pytest.mark.parametrize("groups", [None, np.array([0, 1, 0])], ids=["rows", "groups"])
def test_contributions_are_what_leaving_a_text_out_makes(name, groups):
    metric = METRICS[name]

    def of(kept: np.ndarray) -> float:
        return metric.of(TASKS["sft"].predicted(np.arange(kept.sum()), np.zeros(kept.sum()), NUMBERS[kept]))

    units = np.arange(3) if groups is None else groups
    count = len(np.unique(units))
    whole = of(np.ones(3, dtype=bool))
    expected = [count * whole - (count - 1) * of(units != unit) for unit in range(count)]
    scored = TASKS["sft"].predicted(np.arange(3), np.zeros(3), NUMBERS)
    assert metric.contributions(scored, groups) == pytest.approx(expected)


@pytest.mark.parametrize("change", [(0, 0, -1.0), (0, 1, 0.0), (0, 1, 1.5), (0, 2, 4.0), (0, 2, -1.0), (0, 0, np.nan)])
def test_predictions_that_no_model_gives_are_refused(change, tmp_path):
    row, column, value = change
    numbers = NUMBERS.copy()
    numbers[row, column] = value
    columns = {"row": np.arange(3), **dict(zip(OF_TEXT, numbers.T, strict=True))}
    with pytest.raises(InputError, match="1 rows that no model gives, the first in line 2"):
        TASKS["sft"].read(tmp_path / "predictions.csv", columns, 3)


def test_the_last_turn_is_found_where_a_template_writes_earlier_ones_otherwise(tokenizer):
    """As templates do that leave out what an assistant thought before."""
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if loop.last and message['role'] == "
        "'assistant' %}think {% endif %}{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (row,) = encode(tokenizer, CHATS | {"chat_template": template, "loss_on": "last"}, (json.dumps(TWO),))
    assert learned(tokenizer, row) == ["think t.*<|im_end|>"]
    with pytest.raises(InputError, match="writes a turn otherwise once others follow"):
        encode(tokenizer, CHATS | {"chat_template": template}, (json.dumps(TWO),))


def test_a_line_break_after_an_end_that_is_not_eos_is_not_learned():
    own = tiny_causal.tokenizer(eos_token="<|endoftext|>")
    assert own.convert_tokens_to_ids("<|im_end|>") not in own.all_special_ids
    (row,) = encode(own, CHATS, (json.dumps(EXCHANGE),))
    assert learned(own, row) == ["d.*<|im_end|>"]


def test_an_instruction_without_an_input_column_is_written_as_alpacas_too():
    block = {"source": "files", "instruction": "instruction", "output": "output"}
    ((prompt, _),) = texts(block, instruction=["Match"], output=[".*"])
    assert prompt == ALPACA.format(with_input="", instruction="Match", input="")


WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CALLING = [
    {"role": "user", "content": "Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "d.*"},
]
TOOLS = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}{% for message in messages %}<|im_start|>"
    "{{ message.role }}\n{% for call in message.tool_calls or [] %}{{ call.function.arguments.city }}{% endfor %}"
    "{{ message.content or '' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_chat_with_tools_is_written_with_them_and_its_calls_are_learned(tokenizer, as_json):
    block = CHATS | {"tools": "tools", "chat_template": TOOLS}
    tools = json.dumps([WEATHER]) if as_json else [WEATHER]
    with_tools, without = texts(block, messages=[CALLING, CALLING], tools=[tools, None])
    first, second = encode(tokenizer, block, with_tools, without)
    assert tokenizer.decode(first.ids).startswith("[weather]") and "weather" not in tokenizer.decode(second.ids)
    assert learned(tokenizer, first) == learned(tokenizer, second) == ["Oslo<|im_end|>", "d.*<|im_end|>"]


@pytest.mark.parametrize(
    ("chat", "tools", "said"),
    [
        (CALLING, "[", "'tools' is text and no JSON list of tools"),
        (CALLING, {"name": "weather"}, "'tools' is no list of tools"),
        (CALLING, [{"type": "function"}], "'tools' has a tool without a name"),
        ([CALLING[0], {**CALLING[1], "tool_calls": "["}], None, "'messages' has tool_calls that are text and no JSON"),
        (
            [CALLING[0], {**CALLING[1], "tool_calls": [{"function": {"name": "weather", "arguments": "{"}}]}],
            None,
            "'messages' has a call of 'weather' whose arguments are no JSON",
        ),
    ],
)
def test_broken_tools_and_calls_are_one_line(chat, tools, said):
    with pytest.raises(InputError) as refused:
        texts(CHATS | {"tools": "tools"}, messages=[chat], tools=[tools])
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_date_in_a_template_is_the_same_on_any_day(tokenizer):
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}{{ date_string }} "
    )
    (row,) = encode(tokenizer, CHATS | {"chat_template": template + tiny_causal.CHATML}, (json.dumps(EXCHANGE),))
    assert tokenizer.decode(row.ids).startswith("26 Jul 2024 ")


@pytest.mark.parametrize("name", ["classification", "regression"])
def test_tasks_with_labels_refuse_the_keys_of_others(name):
    block = {"source": "files", "text": ["t"], "label": "l", "prompt": "p"}
    with pytest.raises(InputError, match=f"config key datasets.x.prompt: {name} does not take it"):
        TASKS[name].check_block("datasets.x", block)
