"""What a small world has instead of ImageNet and BookCorpus: encoders learned before the method.

They keep the training half of the method protocol (forward, loss, parameter_groups), so that the
one trainer trains them; they segment nothing and are not in the table of methods.
"""
