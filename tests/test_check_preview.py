"""`check` finds what is wrong before anything runs, in steps to come too; `preview` shows what is trained on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHAIN, Ran, chats, write_chain, write_jsonl

Cli = Callable[..., Ran]


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A folder with a chain of four steps, none of which has run."""
    return write_chain(tmp_path / "chain", ["pretrain", "smoltalk", "sft", "dpo"]).parent


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def checked(cli: Cli, folder: Path, *files: str) -> Ran:
    """`check` of recipes of the folder; whatever it finds, it runs and writes nothing."""
    before = sorted(folder.rglob("*"))
    ran = cli("check", *(folder / file for file in files or ("pipeline.yaml",)), "--out", folder / "run")
    assert sorted(folder.rglob("*")) == before
    assert "Traceback" not in ran.err
    return ran


def errors(ran: Ran, code: int = 2) -> list[str]:
    assert ran.code == code, ran
    assert "nothing wrong was found" not in ran.out
    return ran.err.splitlines()


# --- check -----------------------------------------------------------------------------------------------------------


def test_a_good_chain_is_looked_at_as_far_as_its_last_step_before_any_has_run(cli: Cli, chain: Path) -> None:
    ran = checked(cli, chain)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[-1] == "nothing wrong was found"
    assert "✓ smoltalk  chats.jsonl: openai, 40 rows read" in lines
    assert "✓ dpo  pairs.jsonl: ultrafeedback, 24 rows read" in lines
    for step, rows in (("sft", 40), ("dpo", 24)):
        assert f"✓ {step}  trainer fields are valid" in lines
        assert f"✓ {step}  the template trains its stop token" in lines
        assert any(line.startswith(f"✓ {step}  {rows} rows rendered: longest ") for line in lines), lines


def test_a_step_alone_is_checked_with_the_steps_of_the_pipeline_beside_it(cli: Cli, chain: Path) -> None:
    ran = checked(cli, chain, "sft.yaml")
    assert (ran.code, ran.err) == (0, "")
    assert {line.split()[1] for line in ran.out.splitlines()[:-1]} == {"sft"}
    assert "40 rows rendered" in ran.out


def test_a_few_rows_over_max_length_are_a_warning_and_many_an_error(cli: Cli, chain: Path) -> None:
    edit(chain / "sft.yaml", "max_length: 128", "max_length: 30\nmax_cut: 1")
    ran = checked(cli, chain)
    assert ran.code == 0, ran.err
    assert [line for line in ran.out.splitlines() if line.startswith("! sft") and "over max_length 30" in line]
    edit(chain / "sft.yaml", "max_cut: 1", "max_cut: 0")
    [line] = errors(checked(cli, chain))
    assert "sft.yaml: " in line
    assert "of 40 rows are longer than max_length 30 tokens" in line


def test_a_step_that_the_chain_does_not_have_is_found(cli: Cli, chain: Path) -> None:
    edit(chain / "sft.yaml", "@pretrain", "@pretrian")
    [line] = errors(checked(cli, chain))
    assert "sft.yaml: @pretrian is no earlier step and has not been run" in line
    assert line.endswith("→ did you mean @pretrain?")


def test_steps_in_the_wrong_order_are_found(cli: Cli, chain: Path) -> None:
    edit(
        chain / "pipeline.yaml",
        "  smoltalk: smoltalk.yaml\n  sft: sft.yaml\n",
        "  sft: sft.yaml\n  smoltalk: smoltalk.yaml\n",
    )
    lines = errors(checked(cli, chain))
    assert len(lines) == 2, "data and eval_data"
    assert all("@smoltalk comes no earlier than the step sft that reads it → move that step before" in x for x in lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@pretrain", "@smoltalk", "@smoltalk gives no model: it is a step of kind smoltalk → it gives train, test"),
        ('[{source: "@smoltalk"}]', '[{source: "@pretrain"}]', "@pretrain gives no rows of split 'train'"),
        ("split: test", "split: valid", "@smoltalk gives no rows of split 'valid'"),
    ],
)
def test_a_step_that_will_not_give_what_is_read_of_it_is_found(
    cli: Cli, chain: Path, old: str, new: str, message: str
) -> None:
    edit(chain / "sft.yaml", old, new)
    [line] = errors(checked(cli, chain))
    assert message in line


def test_rows_of_another_kind_and_broken_ones_are_all_told_in_one_go(cli: Cli, chain: Path) -> None:
    edit(chain / "dpo.yaml", "pairs.jsonl", "chats.jsonl")
    edit(chain / "pretrain.yaml", "texts.jsonl", "gone.jsonl")
    (chain / "mine.jsonl").write_text("{]\n")
    edit(chain / "smoltalk.yaml", "{source: chats.jsonl}", "{source: chats.jsonl}, {source: mine.jsonl}")
    first, second, third = errors(checked(cli, chain))
    assert "pretrain.yaml: no such file or folder" in first
    assert "mine.jsonl:1: " in second
    assert "format openai gives chats, but this step needs preference pairs" in third


def test_wrong_trainer_fields_of_several_steps_are_all_told_in_one_go(cli: Cli, chain: Path) -> None:
    for name in ("pretrain", "sft", "dpo"):
        edit(chain / f"{name}.yaml", "learning_rate", "learning_rte")
    lines = errors(checked(cli, chain))
    assert len(lines) == 3
    for name, line in zip(("pretrain", "sft", "dpo"), lines, strict=True):
        assert line.endswith(f"{name}.yaml: unknown key trainer.learning_rte → did you mean learning_rate?")


def test_several_recipes_are_all_checked_though_the_first_is_wrong(cli: Cli, chain: Path) -> None:
    edit(chain / "pretrain.yaml", "vocab_size", "vocabulary")
    edit(chain / "smoltalk.yaml", "chats.jsonl", "gone.jsonl")
    (chain / "pipeline.yaml").unlink()
    first, second = errors(checked(cli, chain, "pretrain.yaml", "smoltalk.yaml"))
    assert "pretrain.yaml:3: unknown key tokenizer.vocabulary" in first
    assert "smoltalk.yaml: no such file or folder" in second


def test_a_model_whose_template_never_trains_its_stop_token_is_found(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (model / "chat_template.jinja").write_text(bare)
    write_jsonl(tmp_path / "chats.jsonl", chats(4))
    (tmp_path / "sft.yaml").write_text(
        "kind: sft\nmodel: ./model\ntemplate: model\ndata: [{source: chats.jsonl}]\nmax_length: 128\n"
    )
    [line] = errors(checked(cli, tmp_path, "sft.yaml"))
    assert "template" in line


# --- preview ---------------------------------------------------------------------------------------------------------


def shown(cli: Cli, recipe: Path, *arguments: object) -> str:
    ran = cli("preview", recipe, *arguments, "--out", recipe.parent / "run")
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def test_preview_marks_exactly_what_the_assistant_writes_and_its_stop_token(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "2 + 3?"), ("assistant", "5.")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    (tmp_path / "sft.yaml").write_text(
        f"kind: sft\nmodel: {tiny_model}\ntemplate: chatml\ndata: [{{source: rows.jsonl}}]\n"
    )
    out = shown(cli, tmp_path / "sft.yaml")
    assert out.startswith(
        "--- rows.jsonl:1\n"
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n⟦Yes?<|im_end|>⟧\n"
        "<|im_start|>user\n2 + 3?<|im_end|>\n"
        "<|im_start|>assistant\n⟦5.<|im_end|>⟧"
    )
    over = shown(cli, tmp_path / "sft.yaml", "max_length=20").splitlines()[-1]
    tokens = int(over.split()[0])
    assert over.endswith(f" trained on, {tokens - 20} over max_length 20")


def test_preview_shows_a_pair_twice_with_either_answer(cli: Cli, chain: Path) -> None:
    out = shown(cli, chain / "dpo.yaml", "--rows", 2)
    prompt = "<|im_start|>user\nSay 0.<|im_end|>\n<|im_start|>assistant\n"
    assert f"--- pairs.jsonl:1 chosen\n{prompt}⟦Here it is: 0.<|im_end|>" in out
    assert f"--- pairs.jsonl:1 rejected\n{prompt}⟦No.<|im_end|>" in out
    assert [line for line in out.splitlines() if line.startswith("---")] == [
        f"--- pairs.jsonl:{number} {side}" for number in (1, 2) for side in ("chosen", "rejected")
    ]


def test_preview_shows_rows_of_a_step_whose_model_and_data_are_still_to_come(cli: Cli, chain: Path) -> None:
    out = shown(cli, chain / "sft.yaml", "--rows", 1)
    assert (
        "--- chats.jsonl:1\n<|im_start|>user\nWhat is 0 + 0?<|im_end|>\n<|im_start|>assistant\n⟦It is 0.<|im_end|>⟧"
        in out
    )
    assert out.count("---") == 1
    assert not (chain / "run").exists()


def test_preview_of_pretraining_shows_packed_rows_of_each_stage_with_documents_parted(cli: Cli, chain: Path) -> None:
    write_jsonl(chain / "long.jsonl", [{"text": "A long tale. " * 60}])
    (chain / "pretrain.yaml").write_text(
        CHAIN["pretrain"]
        .replace("[{source: texts.jsonl}]", "[{source: texts.jsonl}, {name: tales, source: long.jsonl}]")
        .replace("max_steps: 12, ", "")
        + "global_batch_size: 4\nstages:\n- {name: short, tokens: 512, mixture: {texts.jsonl: 1}}\n"
        "- {name: long, tokens: 512, mixture: {tales: 1}, max_length: 128}\n"
    )
    out = shown(cli, chain / "pretrain.yaml", "--rows", 3)
    first, second, third = (part.splitlines() for part in out.split("--- ")[1:])
    assert first[0] == "stage short, row 1: texts.jsonl"
    # A document's first token is not trained on, its end is; the next one begins on a new line.
    assert (
        first[1]
        == "The⟦ number 0 comes before 1. The number 0 comes before 1. The number 0 comes before 1. <|endoftext|>⟧"
    )
    assert first[2].startswith("The⟦ number 1")
    documents = len(first) - 2
    assert first[-1] == f"64 tokens, {documents} documents, {64 - documents} trained on"
    assert second[0] == "stage long, row 1: tales"
    assert second[-1] == "128 tokens, 1 document, 127 trained on"
    assert third[0] == "stage short, row 2: texts.jsonl"
    # It goes on where the row before ended.
    cut = first[-2].replace("⟦", "").replace("⟧", "") + third[1].replace("⟦", "").replace("⟧", "")
    assert re.fullmatch(r"(The number (\d+) comes before \d+\. ){3}<\|endoftext\|>", cut)


def test_preview_of_steps_that_read_each_other_is_refused(cli: Cli, chain: Path) -> None:
    edit(
        chain / "pipeline.yaml",
        "  smoltalk: smoltalk.yaml\n  sft: sft.yaml\n",
        "  sft: sft.yaml\n  smoltalk: smoltalk.yaml\n",
    )
    edit(chain / "sft.yaml", "@pretrain", "@dpo")
    ran = cli("preview", chain / "sft.yaml", "--out", chain / "run")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "@dpo comes no earlier than the step sft that reads it → move that step before this one" in ran.err


def test_preview_of_a_step_that_reads_no_step_of_the_pipeline_is_refused(cli: Cli, chain: Path) -> None:
    edit(chain / "dpo.yaml", "@sft", "@sfft")
    (chain / "pipeline.yaml").write_text("kind: smoltalk\ndata: [{source: chats.jsonl}]\n")
    ran = cli("preview", chain / "dpo.yaml", "--out", chain / "run")
    assert ran.code == 2
    assert "dpo.yaml: @sfft is no earlier step and has not been run" in ran.err


def test_impossible_filters_and_missing_benchmarks_are_found_at_once(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hi", "completion": "ho"}\n')
    (tmp_path / "bench.jsonl").write_text('{"question": "what?"}\n')
    recipe = tmp_path / "smoltalk.yaml"
    text = "kind: smoltalk\ndata: [{source: rows.jsonl}]\n"
    recipe.write_text(text + "decontaminate: {against: [{source: bench.jsonl}]}\nfilters: {words: {max: 9}}\n")
    ran = cli("check", recipe)
    assert (ran.code, "bench.jsonl: 1 questions to keep out" in ran.out) == (0, True), ran.err
    recipe.write_text(text + "decontaminate: {against: [{source: bunch.jsonl}]}\nfilters: {regex: ['(']}\n")
    ran = cli("check", recipe)
    assert ran.code == 2
    assert "'(' is no regular expression" in ran.err
    assert "did you mean" in ran.err
    assert "bench.jsonl" in ran.err


def test_rows_out_of_order_that_a_filter_drops_do_not_fail_the_check(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    good = [
        f'{{"messages": [{{"role": "user", "content": "hi {n}"}}, {{"role": "assistant", "content": "ho"}}]}}\n'
        for n in range(20)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(good) + '{"messages": [{"role": "user", "content": "alone"}]}\n')
    recipe = tmp_path / "sft.yaml"
    text = f"kind: sft\nmodel: {tiny_model}\ntemplate: chatml\ndata: [{{source: rows.jsonl}}]\n"
    recipe.write_text(text)
    assert cli("check", recipe).code == 2
    recipe.write_text(text + "filters: {structure: true}\n")
    ran = cli("check", recipe)
    assert (ran.code, "1 row broken" in ran.out) == (0, True), ran.err
