"""Every choice of the two heads and of their mutual supervision. Defaults are the paper's model.

Where the paper is silent the default is the best-supported reading; the field says which.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from refseg.method import MethodConfig


class IndicatorConfig(MethodConfig):
    """Which proposal the sentence is to be about (the paper's indicator module, Table 3).

    target_only: no indicator; the generator sees the target proposal alone (ablations a to c).
    init_std: spread of I_pos and I_neg at the start (silent; the spread of a normalised
        proposal, so that the mark is neither lost nor all there is).
    """

    target_only: bool = False
    init_std: float = Field(default=1.0, ge=0)


class GeneratorConfig(MethodConfig):
    """The indicated generation head: a 4-layer transformer decoder (paper).

    Width, heads, MLP, dropout, vocabulary: silent; Mask2Former's own sizes and BERT's words.

    vocab_size: word pieces. max_words: longest sentence as the tokenizer counts, [CLS] and [SEP]
        included. start, end, pad: ids of [CLS], [SEP], [PAD]. never: ids that are never written
        (padding, [UNK], [CLS], [MASK]); their probability is not shared out among the others.
    tied: the output layer's weights are the word table's (silent; 7.8 M parameters fewer).
    dropout: 0.1 while learning from sentences, 0 while learning from rewards.
    """

    width: int = Field(default=256, ge=1)
    heads: int = Field(default=8, ge=1)
    layers: int = Field(default=4, ge=1)
    mlp_width: int = Field(default=2048, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    vocab_size: int = Field(default=30522, ge=5)
    max_words: int = Field(default=21, ge=3)
    start: int = Field(default=101, ge=0)
    end: int = Field(default=102, ge=0)
    pad: int = Field(default=0, ge=0)
    never: tuple[int, ...] = (0, 100, 101, 103)
    tied: bool = True
    indicator: IndicatorConfig = IndicatorConfig()

    @model_validator(mode="after")
    def _ids_are_words(self) -> GeneratorConfig:
        beyond = [i for i in (self.start, self.end, self.pad, *self.never) if i >= self.vocab_size]
        if beyond:
            raise ValueError(f"ids {beyond} are outside a vocabulary of {self.vocab_size}")
        if self.end in self.never:
            raise ValueError("never must not hold the id that ends a sentence")
        return self


class SelectionConfig(MethodConfig):
    """The proposal selection head: a 4-layer decoder whose queries are proposals (paper).

    Sizes: silent; as the generation head. score_width: hidden width of the two-layer score MLP.
    """

    width: int = Field(default=256, ge=1)
    heads: int = Field(default=8, ge=1)
    layers: int = Field(default=4, ge=1)
    mlp_width: int = Field(default=2048, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    score_width: int = Field(default=256, ge=1)


class PolicyConfig(MethodConfig):
    """Disambiguation supervision: the reward r(Y, k), Eq. 4, Table 5.

    alpha, tau: 4 and 2.5 (paper). form: "softmax" over all proposals, or "sigmoid" of the
        target's own score (Table 5), which tau does not touch. tau = 1 is Table 5's "softmax".
    cider: factor of CIDEr in the reward (paper: 1; 0 is Table 5's "unambiguity only").
    beams: q1, sentences per object (paper: 5).
    baseline: what is taken from a reward: "none" (Eq. 4 to the letter), "mean" over the object's
        sentences (ours: without it every beam is pushed up, as all rewards are positive),
        "greedy" (the reward of the greedy sentence), "leave_one_out" (mean of the others).
    log_p: of a sentence, the "sum" over its words (Eq. 4) or their "mean".
    weighting: "equal" for all sentences of an object (Eq. 4 as sampled), or "posterior": p of
        each over the sum of p, which with the mean baseline is minimum-risk training.
    """

    alpha: float = Field(default=4.0, ge=0)
    tau: float = Field(default=2.5, gt=0)
    form: Literal["softmax", "sigmoid"] = "softmax"
    cider: float = Field(default=1.0, ge=0)
    beams: int = Field(default=5, ge=1)
    baseline: Literal["none", "mean", "greedy", "leave_one_out"] = "mean"
    log_p: Literal["sum", "mean"] = "sum"
    weighting: Literal["equal", "posterior"] = "equal"
