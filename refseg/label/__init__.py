"""Labels that a model writes: pseudo masks and pseudo expressions, as an ordinary data set.

options = LabelOptions(model="vega-scenes", task="masks", data="scenes", out=Path("taught"))
label(options, workers=2)
student_data = open_data("taught", "train", Labels.parse("text+mask"))
"""

from refseg.label.options import LabelOptions
from refseg.label.run import LabelResult, label

__all__ = ["LabelOptions", "LabelResult", "label"]
