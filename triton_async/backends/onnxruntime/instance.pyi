from triton_async.backends.base import ModelInstance
from triton_async.backends.onnxruntime.session import Session
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool

class OnnxRuntimeInstance(ModelInstance):
    def __init__(self, name: str, session: Session, signature: ModelSignature, pool: SlabPool) -> None: ...
