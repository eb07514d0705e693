"""Colours that an expression tells of its object: weak labels for what was never photographed.

"man in red shirt next to the blue car" tells red of the man's upper half and nothing of blue. Which
word belongs to what nobody has annotated. A colour counts where no word for a relation stands
before it, and not where it names a person ("white guy"); a garment behind it says which half.
"""

from __future__ import annotations

import re
from functools import lru_cache

import torch
from torch import Tensor

from refseg.ops.colours import COLOURS, MEANINGS, ZONES
from refseg.types import Batch

#: Zones of what is told: anywhere in the object, in its upper, in its lower half.
ANYWHERE, UPPER, LOWER = range(ZONES)
_SIDES = "left|right|far|end|top|bottom|side|front|back|middle|center|centre|rear|edge"
#: "on the left", "in the front": where the object is, in no relation to another one.
_PLACE = re.compile(rf"\b(on|to|in|at|from) (the )?(far |very )?({_SIDES})( (left|right|side))?\b")
#: From the first of these on, an expression tells of other things than its object, or of none.
_ELSEWHERE = re.compile(
    r"\b(next to|beside|besides|behind|near|nearest (to|the)|closest to|by|between|under|below|"
    r"underneath|above|over (the|a|an)|on|front of|facing|touching|holding|against|to|of the|"
    r"not|no|isn|isnt|without)\b"
)
_WORD = re.compile(r"[a-z]+")
_PERSONS = frozenset(
    ("man", "woman", "guy", "girl", "boy", "lady", "person", "people", "kid", "child", "male",
     "female", "dude", "player", "baby", "men", "women")
)  # fmt: skip
_SKINS = frozenset(("black", "white", "brown"))
_TOPS = (
    "shirt", "tshirt", "shirts", "top", "jacket", "coat", "sweater", "hoodie", "blouse", "vest",
    "tie", "hat", "cap", "helmet", "hair", "jersey", "suit", "sweatshirt", "tank", "scarf",
)  # fmt: skip
_BOTTOMS = (
    "pants", "shorts", "jeans", "skirt", "trousers", "shoes", "boots", "socks", "leggings"
)  # fmt: skip
_ZONE_OF = {**dict.fromkeys(_TOPS, UPPER), **dict.fromkeys(_BOTTOMS, LOWER)}
_REACH = 3  # words behind a colour among which its garment is looked for


@lru_cache(maxsize=50_000)
def colours_told(text: str) -> frozenset[tuple[int, int]]:
    """(zone, row of `COLOURS`) that the expression tells of its object."""
    words = _WORD.findall(_ELSEWHERE.split(_PLACE.sub(" ", text.lower()))[0])
    told = set()
    for place, word in enumerate(words):
        after = words[place + 1 : place + 1 + _REACH]
        if word in _SKINS and after and after[0] in _PERSONS:
            continue
        zone = next((_ZONE_OF[one] for one in after if one in _ZONE_OF), ANYWHERE)
        told |= {(zone, COLOURS.index(term)) for term in MEANINGS.get(word, ())}
    return frozenset(told)


def told_of_objects(batch: Batch, count: int) -> Tensor:
    """[I, K, ZONES, 11] float32: whether some expression of the batch tells a colour of an object.

    count: K. Zeros for objects that no expression is about.
    """
    told = torch.zeros(len(batch.images), count, ZONES, len(COLOURS))
    if batch.targets is not None:
        rows = zip(batch.texts, batch.image_of.tolist(), batch.targets.tolist(), strict=True)
        for text, image, target in rows:
            for zone, colour in colours_told(text) if target >= 0 else ():
                told[image, target, zone, colour] = 1.0
    return told
