"""Three objects with published scores: pycocoevalcap and its METEOR jar gave the golden values."""

REFERENCES = {
    1: ["left red bus", "red bus on the left", "bus closest to left"],
    2: ["man in blue shirt", "guy wearing blue", "the man with the blue top"],
    3: ["zebra with many stripes", "right zebra"],
}
HYPOTHESES = {1: "red bus on left", 2: "man in a blue shirt", 3: "zebra on the right"}
