"""What a pickle may name: a closed list of constructors that build inert objects, whatever they are given.

A name is on it when importing its module, calling it (``CALLED``) or filling an object of it (``BUILT``) runs nothing that the
pickle chooses. All else is refused. Of that, names of ``DANGEROUS`` modules are known ways to run code, and the others are
foreign: whether their objects are harmless cannot be told from the file.
"""

from __future__ import annotations

import sys


def _names(table: dict[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((module, name) for module, names in table.items() for name in names.split())


_DTYPES = """bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 bfloat16 complex32 complex64 complex128
 quint8 qint8 qint32 quint4x2 quint2x4 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2
 float half double long int short bcomplex32 bits8 bits16 bits1x8 bits2x4 bits4x2 int1 int2 int3 int4 int5 int6 int7
 uint1 uint2 uint3 uint4 uint5 uint6 uint7 per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric
 per_channel_affine_float_qparams strided sparse_coo contiguous_format channels_last preserve_format"""
_STORAGES = """ByteStorage CharStorage ShortStorage IntStorage LongStorage HalfStorage FloatStorage DoubleStorage BoolStorage
 BFloat16Storage ComplexFloatStorage ComplexDoubleStorage QInt8Storage QUInt8Storage QInt32Storage QUInt4x2Storage QUInt2x4Storage
 UntypedStorage TypedStorage"""
_TENSORS = """ByteTensor CharTensor ShortTensor IntTensor LongTensor HalfTensor FloatTensor DoubleTensor BoolTensor BFloat16Tensor"""
_NUMPY_SCALARS = """bool_ bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 longdouble complex64
 complex128 str_ bytes_ datetime64 timedelta64 intc int_ longlong"""
_RECONSTRUCT = "_reconstruct scalar"
_PATHS = "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath"
_BIT_GENERATORS = {"_mt19937": "MT19937", "_pcg64": "PCG64 PCG64DXSM", "_philox": "Philox", "_sfc64": "SFC64"}

# may be called, with any arguments
CALLED = _names(
    {
        "builtins": "set frozenset list dict tuple int float complex bool str bytes bytearray slice range object",
        "collections": "OrderedDict defaultdict Counter deque",
        "datetime": "datetime date time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "pathlib": _PATHS,
        "pathlib._local": _PATHS,
        "numpy": f"dtype ndarray {_NUMPY_SCALARS}",
        "numpy.core.multiarray": _RECONSTRUCT,
        "numpy._core.multiarray": _RECONSTRUCT,
        "numpy.core.numeric": "_frombuffer",
        "numpy._core.numeric": "_frombuffer",
        "numpy.ma": "MaskedArray",
        "numpy.ma.core": "_mareconstruct MaskedArray",
        "numpy.random._pickle": "__randomstate_ctor __bit_generator_ctor __generator_ctor",
        "numpy.random.bit_generator": "__pyx_unpickle_SeedSequence SeedSequence",
        **{f"numpy.random.{module}": names for module, names in _BIT_GENERATORS.items()},
        "torch": f"Size device Tensor {_DTYPES} {_STORAGES} {_TENSORS}",
        "torch.cuda": f"{_STORAGES} {_TENSORS}",
        "torch.sparse": _TENSORS,
        "torch.storage": "UntypedStorage TypedStorage",
        "torch.nn.parameter": "Parameter Buffer",
        "torch.serialization": "_get_layout",
        "torch._tensor": "_rebuild_from_type_v2",
        "torch._utils": """_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state
            _rebuild_qtensor _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage _rebuild_nested_tensor
            _rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor""",
        "torch.distributed.checkpoint.metadata": "_MEM_FORMAT_ENCODING StorageMeta",
        "transformers.trainer_utils": """IntervalStrategy EvaluationStrategy SaveStrategy HubStrategy SchedulerType FSDPOption
            EvalPrediction""",
        "transformers.training_args": "OptimizerNames ParallelMode",
        "transformers.debug_utils": "DebugOption",
        "accelerate.utils.dataclasses": "DistributedType",
        "typing": "Any",
        "deepspeed.runtime.zero.config": "ZeroStageEnum",
        "sentence_transformers.training_args": "BatchSamplers MultiDatasetBatchSamplers",
    }
)

_LIGHTNING_CALLBACKS = {"model_checkpoint": "ModelCheckpoint", "early_stopping": "EarlyStopping"}
_LIGHTNING = {
    f"{package}.{module}": names
    for package in ("pytorch_lightning", "lightning.pytorch")
    for module, names in (
        *((f"callbacks.{module}", names) for module, names in _LIGHTNING_CALLBACKS.items()),
        ("utilities.parsing", "AttributeDict"),
    )
}
_OPTIMIZERS = {
    "adadelta": "Adadelta", "adagrad": "Adagrad", "adam": "Adam", "adamw": "AdamW", "adamax": "Adamax", "asgd": "ASGD",
    "lbfgs": "LBFGS", "nadam": "NAdam", "radam": "RAdam", "rmsprop": "RMSprop", "rprop": "Rprop", "sgd": "SGD",
    "sparse_adam": "SparseAdam", "_adafactor": "Adafactor", "_muon": "Muon",
}  # fmt: skip
_SCHEDULERS = """LRScheduler _LRScheduler LambdaLR MultiplicativeLR StepLR MultiStepLR ConstantLR LinearLR ExponentialLR SequentialLR
 PolynomialLR CosineAnnealingLR ChainedScheduler ReduceLROnPlateau CyclicLR CosineAnnealingWarmRestarts OneCycleLR"""

# may be filled with a state, but not called: the constructors of some of them do more than to keep what they are given
BUILT = _names(
    {
        "argparse": "Namespace",
        "types": "SimpleNamespace",
        "torch.optim": " ".join(_OPTIMIZERS.values()),
        **{f"torch.optim.{module}": name for module, name in _OPTIMIZERS.items()},
        "torch.optim.lr_scheduler": _SCHEDULERS,
        "torch.distributed.checkpoint.metadata": """Metadata TensorStorageMetadata BytesStorageMetadata TensorProperties
            ChunkStorageMetadata MetadataIndex""",
        "torch.distributed.checkpoint.filesystem": "_StorageInfo",
        "transformers.training_args": "TrainingArguments",
        "transformers.training_args_seq2seq": "Seq2SeqTrainingArguments",
        "transformers.trainer_pt_utils": "AcceleratorConfig",
        "transformers.generation.configuration_utils": "GenerationConfig",
        "accelerate.state": "PartialState",
        "joblib.numpy_pickle": "NumpyArrayWrapper",
        "yacs.config": "CfgNode",
        "dassl.optim.lr_scheduler": "_BaseWarmupScheduler ConstantWarmupScheduler LinearWarmupScheduler",
        "dassl.optim.radam": "RAdam PlainRAdam AdamW",
        "omegaconf.dictconfig": "DictConfig",
        "omegaconf.listconfig": "ListConfig",
        "omegaconf.base": "Metadata ContainerMetadata",
        "omegaconf.nodes": "AnyNode StringNode IntegerNode FloatNode BooleanNode",
        "deepspeed.runtime.fp16.loss_scaler": "LossScaler DynamicLossScaler",
        "deepspeed.utils.tensor_fragment": "fragment_address",
        "sentence_transformers.training_args": "SentenceTransformerTrainingArguments",
        "trl.trainer.sft_config": "SFTConfig",
        "trl.trainer.dpo_config": "DPOConfig",
        "trl.trainer.grpo_config": "GRPOConfig",
        **_LIGHTNING,
    }
)

# may be called with the arguments that ``pickles`` checks, and not be passed on
GUARDED = _names({"_codecs": "encode", "torch.storage": "_load_from_bytes", "copyreg": "_reconstructor"})
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2, as unpicklers translate it
_RENAMED_NAMES = {("builtins", "xrange"): "range", ("builtins", "unicode"): "str", ("builtins", "long"): "int"}

INERT, FILLED, CHECKED, FOREIGN, RUNS = "inert", "filled", "checked", "foreign", "runs"
DANGEROUS = (sys.stdlib_module_names - {"__main__"}) | {  # packages with functions that run what they are given
    "__builtin__", "commands", "os2", "pip", "setuptools", "pkg_resources", "distutils", "dill", "cloudpickle", "joblib", "numpy",
    "IPython", "ipykernel", "cffi", "numba", "pexpect", "ptyprocess", "paramiko", "fabric", "invoke", "sh", "requests", "urllib3",
    "httpx", "aiohttp", "yaml", "jinja2", "execnet", "pytest", "_pytest", "py", "nose", "pydoc_data", "fsspec",
}  # fmt: skip
_DANGEROUS_IN_TORCH = ("torch.hub", "torch.jit", "torch._dynamo", "torch._inductor", "torch.utils", "torch.distributed", "torch.serialization",
    "torch.storage", "torch.package", "torch.fx", "torch.testing", "torch.multiprocessing", "torch.ops", "torch._ops", "torch.classes",
    "torch.library", "torch.cuda", "torch.onnx", "torch.export", "torch.compiler", "torch._C", "torch._utils_internal")  # fmt: skip


def kind_of(module: str, name: str) -> str:
    """Of what kind a name in a pickle is: INERT, FILLED (no call), CHECKED (call with checked arguments), FOREIGN or RUNS."""
    pair = canonical(module, name)
    if pair in CALLED:
        return INERT
    if pair in BUILT:
        return FILLED
    if pair in GUARDED:
        return CHECKED
    module = module.lstrip()
    if module.split(".")[0] in DANGEROUS or (module == "torch" and name in {"load", "save", "from_file", "compile"}):
        return RUNS
    if f"{module}.".startswith(tuple(f"{part}." for part in _DANGEROUS_IN_TORCH)) or (module.startswith("torch") and "." in name):
        return RUNS
    return FOREIGN


def canonical(module: str, name: str) -> tuple[str, str]:
    """A name as Python 3 writes it."""
    module = _RENAMED.get(module, module)
    return module, _RENAMED_NAMES.get((module, name), name)
