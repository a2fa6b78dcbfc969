"""Reporting rules against other people's implementations, on generated pairs; skipped where those are not installed.

``LIT_G2RPO_ORACLE_PAIRS`` sets the number of pairs per rule.
"""

import os
import random

import numpy as np
import pytest

from lit_g2rpo.evaluation import BENCHMARKS
from lit_g2rpo.evaluation.masks import encode_mask
from lit_g2rpo.evaluation.mmmu import open_answer, option_letter
from lit_g2rpo.evaluation.text import anls, ocr_hit, relaxed_accuracy
from lit_g2rpo.rewards.answers.text import character_accuracy

PAIRS = int(os.environ.get("LIT_G2RPO_ORACLE_PAIRS", "2000"))
os.environ.setdefault("OPENAI_API_KEY", "none")

WORDS = [
    "Total",
    "the",
    "is",
    "so",
    "12",
    "3.5%",
    "1,200",
    "-4",
    "A",
    "B",
    "(C)",
    "D.",
    "=",
    "\n",
    "2010",
    "café",
    "ß",
    ".",
]
NUMBERS = [
    "0",
    "0.0",
    "12",
    "12%",
    "0.12",
    "1,234",
    "1234",
    "2010",
    "1950",
    "-3",
    "1e3",
    "nan",
    "inf",
    "5.",
    ".5",
    "٣",
    "1_0",
]


def mutated(generator: random.Random, text: str) -> str:
    """The text, with a few characters changed, dropped or added."""
    letters = list(text)
    for _ in range(generator.randrange(4)):
        place = generator.randrange(len(letters) + 1)
        letters[place : place + generator.randrange(2)] = generator.choice(["", "x", " ", "  ", "B", "5", ".", "Z"])
    return generator.choice([str.lower, str.upper, str])("".join(letters))


def phrase(generator: random.Random, words: list[str] = WORDS, longest: int = 8) -> str:
    """Some words, with one or two blanks between them."""
    return generator.choice([" ", " ", "  "]).join(generator.choices(words, k=generator.randrange(1, longest)))


def test_anls_equals_lmms_eval():
    oracle = pytest.importorskip("lmms_eval.api.metrics").anls
    generator = random.Random(0)
    for _ in range(PAIRS):
        references = [phrase(generator) for _ in range(generator.randrange(1, 4))]
        answer = mutated(generator, generator.choice(references)) if generator.random() < 0.8 else phrase(generator)
        assert anls(answer, references) == pytest.approx(oracle(references, [answer])["anls"], abs=1e-12)


def test_anls_equals_the_anls_package_on_tidy_text():
    oracle = pytest.importorskip("anls").anls_score
    generator = random.Random(1)
    compared = 0
    while compared < PAIRS:
        references = [" ".join(phrase(generator).lower().split()) for _ in range(2)]
        answer = " ".join(mutated(generator, references[0]).lower().split())
        ours = anls(answer, references)
        # the package drops exactly one half and measures upper case after lowering it
        if ours == 0.5 or "ß" in answer + "".join(references):
            continue
        assert ours == pytest.approx(oracle(answer, references), abs=1e-12)
        compared += 1


def test_relaxed_accuracy_equals_lmms_eval():
    oracle = pytest.importorskip("lmms_eval.tasks.chartqa.utils").relaxed_correctness
    generator = random.Random(2)
    for _ in range(PAIRS):
        gold = generator.choice([*NUMBERS, "Yes", phrase(generator), str(generator.randrange(1, 300))])
        near = [mutated(generator, gold), str(generator.randrange(1, 300)), generator.choice(NUMBERS)]
        if gold.isascii() and gold.isdigit():
            near.append(str(int(gold) * generator.uniform(0.94, 1.06)))
        answer = generator.choice(near)
        assert relaxed_accuracy(answer, gold) == float(oracle(answer, gold))


def test_ocr_hits_equal_lmms_eval():
    oracle = pytest.importorskip("lmms_eval.tasks.ocrbench.utils").ocrbench_process_results
    generator = random.Random(3)
    for _ in range(PAIRS):
        gold = phrase(generator, longest=4)
        wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in gold)
        answer = mutated(generator, generator.choice([gold, wide, f"it says {gold}!", phrase(generator)]))
        dataset = generator.choice(["HME100k", "IIIT5K"])
        row = {"answer": generator.choice([gold, [gold, "zzz"]]), "dataset": dataset, "question_type": "x"}
        theirs = oracle(row, [answer])["ocrbench_accuracy"]["score"]
        assert ocr_hit(answer, [gold], dataset) == theirs


def test_mmmu_equals_lmms_eval():
    oracle = pytest.importorskip("lmms_eval.tasks.mmmu.utils")
    parser = pytest.importorskip("lmms_eval.tasks._task_utils.mmmu_mcq_utils")
    generator = random.Random(4)
    options = ["cat", "the dog", "12", "red fox"]
    index, letters = oracle.get_multi_choice_info(options)
    words = [*WORDS, *options, "C,", "E", "(E)", "Answer:"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parser.random, "choice", lambda choices: None)
        for _ in range(PAIRS):
            answer = phrase(generator, words, 10)
            assert option_letter(answer, options) == oracle.parse_multi_choice_response(answer, letters, index), answer
    for _ in range(PAIRS):
        gold = generator.choice([*NUMBERS[:6], "a", "cat", phrase(generator)])
        answer = phrase(generator, [*WORDS, *NUMBERS, gold, "answer", "result", "1e3", ":", "x"], 12)
        theirs = oracle.eval_open(gold, oracle.parse_open_response(answer))
        assert open_answer(answer, [gold]) == float(theirs), (answer, gold)


def test_points_in_a_mask_equal_lmms_eval():
    oracle = pytest.importorskip("lmms_eval.tasks.refspatial.utils").refspatial_process_results_json
    generator = np.random.default_rng(5)
    for i in range(PAIRS):
        height, width = generator.integers(5, 60, 2)
        mask = (generator.random((height, width)) < 0.5).astype(np.uint8) * 255
        points = generator.integers(0, 1001, (generator.integers(1, 5), 2)).tolist()
        answer = str([{"point_2d": point, "label": "x"} for point in points]).replace("'", '"')
        row = {"id": i, "prompt": "", "suffix": "", "object": "", "mask": mask}
        theirs = float(oracle(row, [answer])["refspatial_acc"]["accuracy"])
        assert BENCHMARKS["refspatial"].value(answer, {"mask": encode_mask(mask)}) == pytest.approx(theirs)


def test_robospatial_equals_lmms_eval_where_both_read_the_answer():
    oracle = pytest.importorskip("lmms_eval.tasks.robo_spatial.utils").evaluate_binary_answer
    for gold in ("yes", "no"):
        for answer in ("yes", "no", "Yes", "NO", "yes.", "no."):
            assert BENCHMARKS["robospatial"].value(answer, {"answer": gold}) == float(oracle(gold, answer))


def test_overlap_equals_lmms_eval():
    oracle = pytest.importorskip("lmms_eval.tasks.refcoco.utils_rec").compute_iou
    generator = np.random.default_rng(6)
    for _ in range(PAIRS):
        boxes = [sorted(generator.choice(1001, 2, replace=False).tolist()) for _ in range(4)]
        (ax, bx), (ay, by), (cx, dx), (cy, dy) = boxes
        gold, answer = [ax, ay, bx, by], [cx, cy, dx, dy]
        ours = BENCHMARKS["refcoco"].value(f'{{"boxes": {answer}}}', {"answer": f'{{"boxes": {gold}}}'})
        assert ours == pytest.approx(oracle(answer, gold), abs=1e-12)


def test_letters_equal_lmms_eval_on_the_forms_it_reads():
    oracle = pytest.importorskip("lmms_eval.tasks.embspatial.utils")._extract_answer_letter
    row = {"answer": "C", "options": ["A. above", "B. below", "C. left", "D. right"]}
    for letter in "ABCD":
        for answer in (letter, f"({letter})", f"{letter}.", letter.lower()):
            assert BENCHMARKS["embspatial"].value(answer, row) == float(oracle(answer) == "C")


def test_character_error_rate_equals_jiwer():
    oracle = pytest.importorskip("jiwer").cer
    generator = random.Random(7)
    for _ in range(PAIRS):
        gold = " ".join(phrase(generator).split())
        answer = " ".join(mutated(generator, gold).split())
        if gold and answer:
            assert character_accuracy(answer, gold) == pytest.approx(max(0.0, 1 - oracle(gold, answer)), abs=1e-12)


def test_the_pairs_are_of_both_kinds():
    # a generator whose pairs all agree, or none, would test nothing
    generator = random.Random(8)
    scores = []
    for _ in range(300):
        gold = phrase(generator)
        scores.append(anls(mutated(generator, gold), [gold]))
    assert 0.1 < np.mean([score == 1 for score in scores]) < 0.9
