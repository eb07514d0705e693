"""Published numbers that stand beside ours (arXiv 2211.07919, Tables 1, 3, 4 and 5).

They come from models that see the pictures. Nothing of ours without pixels compares with them but
the direction in which a change goes.
"""

from __future__ import annotations

#: Table 1: METEOR, CIDEr (references of RefCOCO and RefCOCO+ merged); data -> split -> row -> both.
WRITING = {
    "refcoco": {
        "testA": {"CoNAN, box input": (0.328, 0.912), "mutual, box input": (0.331, 0.941),
                  "mutual, mask input": (0.347, 1.023)},
        "testB": {"CoNAN, box input": (0.351, 1.422), "mutual, box input": (0.365, 1.472),
                  "mutual, mask input": (0.377, 1.527)},
    },
    "refcoco+": {
        "testA": {"CoNAN, box input": (0.281, 0.750), "mutual, box input": (0.258, 0.764),
                  "mutual, mask input": (0.286, 0.820)},
        "testB": {"CoNAN, box input": (0.243, 0.860), "mutual, box input": (0.243, 0.886),
                  "mutual, mask input": (0.248, 0.927)},
    },
}  # fmt: skip

#: Tables 3 and 5, RefCOCO+ testB: variant of the study -> METEOR, CIDEr, Rb-Acc.
REWARDS = {
    "before step 2": (0.252, 0.895, 0.756),
    "unambiguity+CIDEr": (0.248, 0.927, 0.791),
    "unambiguity": (0.241, 0.844, 0.805),
    "sigmoid": (0.246, 0.914, 0.745),
    "softmax tau 1": (0.250, 0.926, 0.780),
}

#: Table 4: REC (box IoU over 0.5 of the predicted mask) on val, testA, testB. Another task: the
#: objects are not given there but found in the picture.
READING = {"refcoco": (0.8374, 0.8732, 0.8127), "refcoco+": (0.7284, 0.7804, 0.6580)}
