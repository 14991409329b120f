from triton_async.backends.base import ModelInstance
from triton_async.backends.fil.forest import Forest
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool

class FilInstance(ModelInstance):
    def __init__(
        self, name: str, forest: Forest, shap: Forest | None, signature: ModelSignature, pool: SlabPool
    ) -> None: ...
