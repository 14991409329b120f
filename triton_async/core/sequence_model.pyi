from triton_async.core.model import Model
from triton_async.core.sequences import SequenceBatcher

class SequenceModel(Model):
    sequences: SequenceBatcher
