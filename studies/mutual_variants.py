"""The rows of mutual's ablation tables as overrides of the recipe `mutual_scenes`."""

from __future__ import annotations

from collections.abc import Mapping

Variants = Mapping[str, tuple[str, ...]]
PEOPLE, AREA, RANDOM = "people only", "written, area, 0.1", "written, random, 0.1"

# table -> row -> what differs from the recipe. The first row of a table is what others differ from.
TABLES: Mapping[str, Variants] = {
    "parts": {  # Tables 3 and 6; step 1 alone
        "whole": (),
        "extractor apart": ("method.end_to_end=false",),
        "reads only": ("method.generate=false",),
        "writes only": ("method.select=false", "weights.text=null", "data.evaluate=null"),
        "target only": ("method.generator.indicator.target_only=true",),
    },
    "written": {  # Table 7 and Figure 5; steps 1 to 3, with few expressions of people
        PEOPLE: (),
        AREA: ("pseudo.filter=area", "pseudo.weight=0.1"),
        "written, area, 1.0": ("pseudo.filter=area", "pseudo.weight=1"),
        RANDOM: ("pseudo.weight=0.1",),  # and as many as the area filter keeps
    },
}
#: Differences that a table is about, of first; the others follow from these.
PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "parts": tuple(("whole", other) for other in tuple(TABLES["parts"])[1:]),
    "written": (
        *((other, PEOPLE) for other in tuple(TABLES["written"])[1:]),
        (AREA, "written, area, 1.0"),
        (AREA, RANDOM),
    ),
}
