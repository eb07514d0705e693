"""CIDEr-D of 5,000 hypotheses with three references each: ours against pycocoevalcap's.

    python benchmarks/bench_captions.py [--objects 5000] [--rounds 5] [--json]

Without pycocoevalcap the same definition written with dicts stands in for it. Sentences are drawn
from a vocabulary with the long tail of real ones, at the mean lengths of RefCOCO (3.5 words) and
RefCOCOg (8.4); both sides must give the same scores, or the run stops. "Indexed" leaves out what
is done once for a set of references; a reward is 5 beams of 20 objects under a fixed idf. Rounds
are interleaved and each gives a ratio; the median counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np

from refseg.metrics.cider import CiderD, DocumentFrequency

References = dict[int, list[str]]
Scores = dict[int, float]
LENGTHS = {"RefCOCO": 3.5, "RefCOCOg": 8.4}


def sentences(objects: int, mean: float, seed: int) -> tuple[dict[int, str], References]:
    """One hypothesis and three references an object, which share some of their words."""
    rng = np.random.default_rng(seed)
    size = 9000
    frequent = 1 / np.arange(1, size + 1)
    frequent /= frequent.sum()

    def write(topic: list[int]) -> str:
        count = 1 + rng.poisson(mean - 1)
        words = rng.choice(size, count, p=frequent)
        kept = rng.random(count) < 0.5
        words[kept] = rng.choice(topic, int(kept.sum()))
        return " ".join(f"w{word}" for word in words)

    topics = [rng.choice(size, 6, p=frequent).tolist() for _ in range(objects)]
    references = {n: [write(topic) for _ in range(3)] for n, topic in enumerate(topics)}
    return {n: write(topic) for n, topic in enumerate(topics)}, references


def literal(hypotheses: dict[int, str], references: References) -> Scores:
    """The definition with dicts, sentence by sentence."""
    documents: Counter[tuple[str, ...]] = Counter()
    for texts in references.values():
        documents.update({gram for text in texts for gram in grams(text)})

    def vector(text: str) -> list[dict[tuple[str, ...], float]]:
        found: list[dict[tuple[str, ...], float]] = [{} for _ in range(4)]
        for gram, count in grams(text).items():
            idf = np.log(len(references)) - np.log(max(1.0, documents[gram]))
            found[len(gram) - 1][gram] = count * idf
        return found

    return {
        key: 10.0
        * float(np.mean([similarity(vector(text), vector(r), text, r) for r in references[key]]))
        for key, text in hypotheses.items()
    }


def grams(text: str) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


def similarity(a: list[dict], b: list[dict], text_a: str, text_b: str) -> float:
    delta = max(len(text_a.split()) - 1, 0) - max(len(text_b.split()) - 1, 0)
    total = 0.0
    for x, y in zip(a, b, strict=True):
        dot = sum(min(value, y.get(gram, 0.0)) * y.get(gram, 0.0) for gram, value in x.items())
        norms = np.sqrt(sum(v**2 for v in x.values()) * sum(v**2 for v in y.values()))
        total += dot / norms if norms else 0.0
    return float(total / 4 * np.exp(-(delta**2) / 72.0))


def other() -> tuple[str, Callable[[dict[int, str], References], Scores]]:
    """What ours is compared with, and its name."""
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError:
        return "literal dicts", literal

    def run(hypotheses: dict[int, str], references: References) -> Scores:
        _, found = Cider().compute_score(references, {k: [v] for k, v in hypotheses.items()})
        return dict(zip(references, found, strict=True))

    return "pycocoevalcap", run


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def paired(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each way, and the median over rounds of the first's time over its own."""
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(timed(run))
    base = next(iter(times.values()))
    return {
        name: {
            "seconds": statistics.median(found),
            "ratio": statistics.median(b / t for b, t in zip(base, found, strict=True)),
        }
        for name, found in times.items()
    }


def bench(objects: int, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    name, run = other()
    report = {}
    for data_set, mean in LENGTHS.items():
        hypotheses, references = sentences(objects, mean, seed=0)
        indexed = CiderD(references)
        theirs, ours = run(hypotheses, references), indexed.scores(hypotheses)
        assert max(abs(theirs[key] - ours[key]) for key in references) < 1e-6
        ways: dict[str, Callable[[], object]] = {
            name: lambda h=hypotheses, r=references: run(h, r),
            "ours": lambda h=hypotheses, r=references: CiderD(r).scores(h),
            "ours, indexed": lambda h=hypotheses, c=indexed: c.scores(h),
        }
        report[f"{objects} x 3 at the length of {data_set}"] = paired(ways, rounds)
    return report


def bench_reward(objects: int) -> float:
    """Milliseconds for 5 beams of 20 objects under an idf fitted once."""
    hypotheses, references = sentences(objects, LENGTHS["RefCOCO"], seed=1)
    cider = CiderD(references, DocumentFrequency.fit(references))
    keys = [key for key in list(references)[:20] for _ in range(5)]
    beams = [hypotheses[(key + 7 * n) % objects] for n, key in enumerate(keys)]
    cider.score(keys, beams)
    return 1000 * statistics.median(timed(lambda: cider.score(keys, beams)) for _ in range(30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    compared, reward = bench(options.objects, options.rounds), bench_reward(options.objects)
    if options.json:
        print(json.dumps({"cider": compared, "reward_ms": reward}))
        return
    for title, ways in compared.items():
        print(title)
        for name, found in ways.items():
            print(f"  {name:14} {found['seconds']:8.3f} s   {found['ratio']:6.1f} times as fast")
    print(f"rewards of 5 beams of 20 objects: {reward:.2f} ms")


if __name__ == "__main__":
    main()
