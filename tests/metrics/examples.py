"""Three objects with published scores: pycocoevalcap and its METEOR jar gave the golden values."""

from refseg.metrics.captions import CaptionMeter

REFERENCES = {
    1: ["left red bus", "red bus on the left", "bus closest to left"],
    2: ["man in blue shirt", "guy wearing blue", "the man with the blue top"],
    3: ["zebra with many stripes", "right zebra"],
}
HYPOTHESES = {1: "red bus on left", 2: "man in a blue shirt", 3: "zebra on the right"}


def collected(hypotheses, **options):
    meter = CaptionMeter(**options)
    for key, text in hypotheses.items():
        meter.add(str(key), text, REFERENCES[key])
    return meter
