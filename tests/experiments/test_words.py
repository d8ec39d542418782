"""What the words of the command make of a call: flags between words, wrong calls in one line, help that is true."""

import re

import pytest

from cilmp.__main__ import COMMANDS, main
from cilmp.experiments import commands, launch
from dassl.utils.errors import UserError


@pytest.fixture
def asked(monkeypatch):
    """What `cilmp run` and `cilmp compare` would run: (protocol, method, data set, seeds)."""
    got = []
    monkeypatch.setattr(commands, "_run", lambda *words: got.append(words) or 0)
    monkeypatch.setattr(commands, "_set", lambda args: got.append(args.SHOTS))
    return got


@pytest.mark.parametrize("line", ["few_shot CoOp BUSI 1 2 --shots 4", "few_shot CoOp BUSI --shots 4 1 2",
                                  "--shots 4 few_shot CoOp BUSI 1 2",
                                  "few_shot --shots 4 CoOp --force BUSI 1 2"])  # fmt: skip
def test_flags_may_stand_before_the_seeds(asked, line):
    assert main(["run", *line.split()]) == 0
    assert asked == ["4", ("few_shot", "CoOp", "BUSI", ["1", "2"])]


def test_the_same_of_compare_and_without_data_set(asked):
    main(["compare", "BUSI", "--protocol", "few_shot", "3"])
    main(["run", "full", "CoOp"])
    assert asked[1::2] == [("few_shot", "all", "BUSI", ["3"]), ("full", "CoOp", "", [])]


def test_a_missing_word_is_named_and_none_that_may_be_missing():
    with pytest.raises(UserError) as told:
        main(["run"])
    assert str(told.value).endswith("required: PROTOCOL, METHOD[,METHOD ...]; see cilmp run --help")


@pytest.mark.parametrize("line, reason", [
    ("run few_shot CoOp BUSI --shot 4 --backbon demo --hparam x --methods CoOp", "--methods"),
    ("prepare folder --rot=x", "--rot=x - did you mean --root?"), ("check x --pixel", "--pixel"),
    ("train --datset x", "--datset - did you mean --dataset?"), ("train --seed x", "--seed: invalid int value: 'x'"),
    ("predict a b --batch_size 3", "--batch_size 3 - did you mean --batch-size?"), ("extract --dataset x", "--llm"),
])  # fmt: skip
def test_a_wrong_call_is_one_line(line, reason):
    with pytest.raises(UserError) as told:
        main(line.split())
    text = str(told.value)
    assert reason in text and "\n" not in text and text.endswith(f"; see cilmp {line.split()[0]} --help")


def test_an_unknown_word_says_where_all_are():
    with pytest.raises(UserError, match=r"unknown command 'methods'.*cilmp --help.*cilmp list.*"):
        main(["methods"])


@pytest.mark.parametrize("word", COMMANDS)
def test_help_says_what_each_flag_is(word, capsys, monkeypatch):
    """No flag without words, no line beyond 120 columns, each default that is a number or a word."""
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        main([word, "--help"])
    text = capsys.readouterr().out
    assert not [line for line in text.splitlines() if len(line) > 120]
    if word != "serve":  # its --port and --host say their defaults otherwise
        bare = re.findall(r"^  (-{2}[a-z][\w-]*(?: \S+)*)$(?!\n {8})", text, re.M)
        assert not bare


@pytest.mark.parametrize("word, flag, default", [
    ("predict", "--batch-size", "32"), ("calibrate", "--level", "0.9"), ("calibrate", "--method", "lac"),
    ("sweep", "--protocol", "few_shot"), ("sweep", "--select", "test"), ("compare", "--protocol", "base2new"),
    ("prepare", "--seed", "1"), ("prepare", "--on-bad-image", "error"), ("extract", "--max-new-tokens", "128"),
])  # fmt: skip
def test_help_says_the_default(word, flag, default, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main([word, "--help"])
    (said,) = re.findall(rf"^  {flag} .*\n(?: {{8}}.*\n)*", capsys.readouterr().out, re.M)
    assert f"default: {default})" in said


def test_the_time_left_is_told_while_runs_are_left(tmp_path, capsys):
    runs = launch.Launch([], tmp_path)
    runs.total, spec = 2, object()
    runs.names = {id(spec): "run"}
    for _ in range(2):
        runs.settled(spec, launch.Outcome("done", "fine", 3.0))
    assert capsys.readouterr().out == "[1/2] run: fine (3 s, about 0:00:03 left)\n[2/2] run: fine (3 s)\n"
