from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.errors import DataError
from refseg.metrics.captions import (
    CiderD,
    DocumentFrequency,
    merge_references,
    meteor_es,
    tokenise,
)
from refseg.metrics.captions import meteor as meteor_jar
from refseg.metrics.words import repeats, tokenise_all, unrolled
from tests.metrics.examples import HYPOTHESES, REFERENCES

CIDER = {1: 3.082112, 2: 1.796232, 3: 1.342837}

WORDS = ["red", "dog", "dogs", "the", "left"]
texts = st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)
objects = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1)


# -- The dumb twin: CIDEr-D as it is defined, with dicts ------------------------------------------


def grams(text, n):
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def twin(hypotheses, references, documents=None):
    documents = references if documents is None else documents
    scores = {}
    for key, hypothesis in hypotheses.items():
        total = 0.0
        for reference in references[key]:
            delta = grams(hypothesis, 2).total() - grams(reference, 2).total()
            for n in range(1, 5):
                a, b = tfidf(hypothesis, n, documents), tfidf(reference, n, documents)
                dot = sum(min(a[g], b.get(g, 0)) * b.get(g, 0) for g in a)
                norms = math.sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))
                total += (dot / norms if norms else 0) * math.exp(-(delta**2) / (2 * 6**2)) / 4
        scores[key] = 10 * total / len(references[key])
    return scores


def tfidf(text, n, documents):
    found = {}
    for gram, count in grams(text, n).items():
        holding = sum(any(gram in grams(t, n) for t in texts) for texts in documents.values())
        found[gram] = count * (math.log(len(documents)) - math.log(max(1, holding)))
    return found


def by_key(rows):
    return dict(enumerate(h for h, _ in rows)), dict(enumerate(r for _, r in rows))


# -- CIDEr-D ---------------------------------------------------------------------------------------


def test_cider_golden_values():
    scores = CiderD(REFERENCES).scores(HYPOTHESES)
    assert scores == pytest.approx(CIDER, abs=1e-6)
    assert np.mean(list(scores.values())) == pytest.approx(2.073727, abs=1e-6)


@settings(max_examples=60)
@given(objects)
def test_fast_cider_is_the_definition(rows):
    hypotheses, references = by_key(rows)
    scores = CiderD(references).scores(hypotheses)
    assert scores == pytest.approx(twin(hypotheses, references), abs=1e-9)
    assert all(0 <= score <= 10 + 1e-9 for score in scores.values())


@settings(max_examples=40)
@given(objects, objects)
def test_a_fixed_idf_is_the_definition(rows, training):
    hypotheses, references = by_key(rows)
    _, documents = by_key(training)
    cider = CiderD(references, DocumentFrequency.fit(documents))
    assert cider.scores(hypotheses) == pytest.approx(
        twin(hypotheses, references, documents), abs=1e-9
    )


@settings(max_examples=20)
@given(objects)
def test_the_idf_of_the_references_is_the_fitted_one(rows):
    hypotheses, references = by_key(rows)
    fixed = CiderD(references, DocumentFrequency.fit(references)).scores(hypotheses)
    assert fixed == pytest.approx(CiderD(references).scores(hypotheses), abs=1e-12)


def test_cider_does_not_depend_on_the_order():
    keys = list(REFERENCES)
    expected = CiderD(REFERENCES).scores(HYPOTHESES)
    for order in itertools.permutations(keys):
        cider = CiderD({key: REFERENCES[key][::-1] for key in order})
        found = cider.scores({key: HYPOTHESES[key] for key in reversed(order)})
        assert found == pytest.approx(expected, abs=1e-12)


def test_one_object_alone_scores_nothing_under_its_own_idf():
    assert CiderD({1: ["red bus"]}).scores({1: "red bus"}) == {1: 0.0}
    frequency = DocumentFrequency.fit(REFERENCES)
    assert CiderD({1: ["red bus"]}, frequency).scores({1: "red bus"})[1] == pytest.approx(5.0)


def test_a_perfect_sentence_reaches_two_and_a_half_per_word_up_to_four():
    alone = {
        1: ["second red mug"],
        2: ["man far left in blue"],
        3: ["right zebra"],
        4: ["tall guy"],
    }
    perfect = {key: texts[0] for key, texts in alone.items()}
    scores = CiderD(alone).scores(perfect)
    assert scores == pytest.approx({1: 7.5, 2: 10.0, 3: 5.0, 4: 5.0})
    merged = merge_references(alone, {key: ["person by the tree"] for key in alone})
    assert all(CiderD(merged).scores(perfect)[key] < scores[key] for key in alone)


def test_rewards_score_several_sentences_of_an_object():
    cider = CiderD(REFERENCES, DocumentFrequency.fit(REFERENCES))
    beams = ["red bus on left", "", "red bus", "zebra on the right", "unheard of unheard"]
    found = cider.score([1, 1, 1, 3, 2], beams)
    assert found.shape == (5,)
    assert found[0] == pytest.approx(CIDER[1], abs=1e-6)
    assert found[1] == 0
    assert found[3] == pytest.approx(CIDER[3], abs=1e-6)
    assert found[4] == 0
    assert cider.score([], []).shape == (0,)


def test_unknown_words_that_repeat_weigh_on_the_norm():
    references = {1: ["red bus"], 2: ["left dog"]}
    for text in ("red zig zig", "red zig zag", "zig"):
        hypotheses = {1: text, 2: ""}
        assert CiderD(references).scores(hypotheses) == pytest.approx(twin(hypotheses, references))


def test_cider_survives_pickling():
    cider = pickle.loads(pickle.dumps(CiderD(REFERENCES)))
    assert cider.scores(HYPOTHESES) == pytest.approx(CIDER, abs=1e-6)


def test_cider_equals_pycocoevalcap():
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason="needs the extra `caption`")
    rng = np.random.default_rng(0)
    vocabulary = [f"w{n}" for n in range(60)]

    def write():
        return " ".join(rng.choice(vocabulary, rng.integers(0, 12)))

    references = {n: [write() for _ in range(rng.integers(1, 6))] for n in range(300)}
    hypotheses = {n: references[n][0] if n % 7 == 0 else write() for n in references}
    mean, scores = cider.Cider().compute_score(references, {n: [t] for n, t in hypotheses.items()})
    found = CiderD(references).scores(hypotheses)
    np.testing.assert_allclose(list(found.values()), scores, atol=1e-6)
    assert np.mean(list(found.values())) == pytest.approx(mean, abs=1e-6)


# -- Document frequencies --------------------------------------------------------------------------


def test_document_frequency_counts_objects_not_sentences():
    frequency = DocumentFrequency.fit({1: ["Red bus!", "red red bus"], 2: ["bus"]})
    assert frequency.documents == 2
    assert frequency.counts == {
        **{"bus": 2, "red": 1, "red bus": 1, "red red": 1, "red red bus": 1},
    }


# -- Words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Left RED bus.", "left red bus"),
        ("the man's T-shirt, don't you see?", "the man 's t-shirt do n't you see"),
        ("she’s left/right of 3.5 at 10:30", "she 's left/right of 3.5 at 10:30"),
        ("2nd guy (w/ hat) & $5 bag", "2nd guy w hat 5 bag"),
        ('"the" dog -- no - the café', "the dog no the café"),
        ("red,blue one: yes; 1,000", "red blue one yes 1,000"),
        ("can't couldnt they've 'quoted'", "ca n't couldnt they 've quoted"),
        (" ... ", ""),
        ("", ""),
    ],
)
def test_tokenise(text, words):
    assert tokenise(text) == words.split()


@given(st.text(alphabet="abT 5'’.,-/n_t\n\t$İß", max_size=25))
def test_tokenised_text_stays_as_it_is(text):
    words = tokenise(text)
    assert tokenise(" ".join(words)) == words
    assert not any(word.split() != [word] for word in words)


@given(st.lists(st.text(alphabet="ab  \n\t.'", max_size=8), max_size=5))
def test_tokenising_all_at_once_is_tokenising_each(found):
    words, lengths = tokenise_all(found)
    assert words == [word for text in found for word in tokenise(text)]
    assert lengths == [len(tokenise(text)) for text in found]


# -- References ------------------------------------------------------------------------------------


def test_merged_references_keep_the_order_and_duplicates():
    plain = {20: ["red bus", "bus"], 3: ["dog"]}
    plus = {100: ["cat"], 20: ["Bus.", "big bus"]}
    merged = merge_references(plain, plus)
    assert merged == {3: ["dog"], 20: ["red bus", "bus", "Bus.", "big bus"], 100: ["cat"]}
    assert list(merged) == [3, 20, 100]
    assert merge_references(dict(reversed(plain.items())), plus) == merged
    assert merge_references(plain, plus, only=[20]) == {20: ["red bus", "bus", "Bus.", "big bus"]}
    assert plain[20] == ["red bus", "bus"]


def test_merging_refuses_unknown_objects():
    with pytest.raises(DataError, match='such as "7"'):
        merge_references({1: ["dog"]}, only=[1, 7])


# -- Bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [lambda h, r: CiderD(r).scores(h), meteor_es, meteor_jar])
def test_bad_corpora_are_refused(metric):
    with pytest.raises(DataError, match="no object has references"):
        metric({}, {})
    with pytest.raises(DataError, match="1 objects have no hypothesis"):
        metric({}, {1: ["bus"]})
    with pytest.raises(DataError, match='object "2" has no references'):
        metric({1: "bus", 2: "dog"}, {1: ["bus"]})
    with pytest.raises(DataError, match="not a string"):
        metric({1: ["bus"]}, {1: ["bus"]})


def test_bad_rewards_are_refused():
    cider = CiderD(REFERENCES)
    with pytest.raises(DataError, match="2 hypotheses for 1 objects"):
        cider.score([1], ["bus", "dog"])
    with pytest.raises(DataError, match='object "4" has no references'):
        cider.score([4], ["bus"])
    with pytest.raises(DataError, match="not a string"):
        cider.score([1], [None])


def test_empty_sentences_score_nothing():
    references = REFERENCES | {4: ["..."]}
    hypotheses = {1: "", 2: "!", 3: "zebra", 4: ""}
    scores = CiderD(references).scores(hypotheses)
    assert scores[1] == scores[2] == scores[4] == 0 < scores[3]
    assert meteor_es(hypotheses, references).each[4] == 0


@pytest.mark.parametrize(
    ("text", "words", "loops"),
    [
        ("sitowingowingowing", "sit owing owing owing", True),
        ("man sitowingowingowinged", "man sit owing owing owing ed", True),
        ("airddd shirt", "air d d d shirt", True),
        ("zebras its its its", "zebras its its its", True),
        ("on it on it is on it on it is on it on it is", None, True),
        ("man on it on it on it", None, True),
        ("polka dot dot", "polka dot dot", False),
        ("the left left one", "the left left one", False),
        ("banana assess", "banana assess", False),  # pieces twice
        ("on it on it on the", None, False),
        ("1000 t-shirt", "1000 t-shirt", False),
        ("its cup its bag its", None, False),
        ("", "", False),
    ],
)
def test_loops_of_words_and_within_words_are_told(text, words, loops):
    assert unrolled(text) == (text if words is None else words).split()
    assert repeats(unrolled(text)) == loops


def test_repeats_equal_every_slice_compared():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(2000):
        words = rng.choice(list("abc"), size=rng.integers(0, 13)).tolist()
        twin = any(
            words[at : at + size] == words[at + size : at + 2 * size]
            == words[at + 2 * size : at + 3 * size]
            for size in range(1, len(words) // 3 + 1)
            for at in range(len(words) - 3 * size + 1)
        )  # fmt: skip
        assert repeats(words) == twin, words
        found += twin
    assert 100 < found < 1900
