"""A CUDA device on a CPU build: tensors on it have shapes but no numbers, and every wait of the host is recorded.

Tensors on the host are real. What came from there to the device keeps its numbers, so that loops that depend on
lengths run as they would; what depends on weights is unknown, and integers and flags among it count as 0. An operation
on tensors of two devices fails as on a GPU.

The library built from ``fake_cuda.cpp`` must be loaded before torch.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
READS = (aten._local_scalar_dense.default, aten.item.default, aten.equal.default, aten.is_nonzero.default)
SIZED_BY_NUMBERS = (
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.repeat_interleave.Tensor
)  # fmt: skip
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
PASSED = ("fake_cuda.py", "transfer.py")
"""Files whose callers are named instead."""
ROOTS = ("lit_g2rpo", "transformers", "peft", "lightning")
"""Packages whose files are named with their folders."""
COPIES = (aten._to_copy.default, aten.copy_.default)


class _WithoutNumbers(FakeTensorMode):
    avoid_device_init = True  # type: ignore[assignment]  # although this device says that it is there


class FakeCuda(TorchDispatchMode):
    """The device, while entered.

    ``waits`` has a line of code for each time the host waited for it, ``casts`` one for each weight that was cast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.casts: list[str] = []
        self._mode = _WithoutNumbers(allow_non_fake_inputs=True)
        self._numbers = WeakTensorKeyDictionary()
        self._pinned = WeakTensorKeyDictionary()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Enter the device; tensors made from lists arrive there as copies, which can be seen."""
        lift, to_list = torch._C._only_lift_cpu_tensors(), FakeTensor.tolist
        torch._C._set_only_lift_cpu_tensors(True)
        # its own reads number by number, a device's copies all of them once
        FakeTensor.tolist = lambda tensor: tensor.cpu().tolist()  # type: ignore[method-assign]
        try:
            with self:
                yield
        finally:
            FakeTensor.tolist = to_list  # type: ignore[method-assign]
            torch._C._set_only_lift_cpu_tensors(lift)

    def adopt(self, module: torch.nn.Module) -> None:
        """Move a module's weights and buffers to the device; shared ones stay shared."""
        moved: dict[int, Tensor] = {}

        def move(old: Tensor) -> Tensor:
            if id(old) not in moved:
                with self._mode:
                    new = torch.empty(old.shape, dtype=old.dtype, device=CUDA)
                learns = old.requires_grad
                moved[id(old)] = torch.nn.Parameter(new, learns) if isinstance(old, torch.nn.Parameter) else new
            return moved[id(old)]

        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, old in tensors.items():
                    if old is not None:
                        tensors[name] = move(old)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        ours = [x for x in inputs if isinstance(x, FakeTensor)]
        to_device = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if func is aten.is_pinned.default:
            return args[0] in self._pinned
        if func is aten._pin_memory.default:
            pinned = args[0].clone()
            self._pinned[pinned] = True
            return pinned
        if not ours and not to_device:
            return func(*args, **kwargs)
        self._count_copies(func, args, kwargs)
        if func is aten._to_copy.default and isinstance(args[0], torch.nn.Parameter):
            self.casts.append(self._where())
        known = all(x in self._numbers for x in ours)
        if func in READS:
            self._wait(func)
            return func(*self._real(args)) if known else func is aten.equal.default or 0
        if func in INDEXED:
            args = self._without_masks(func, args)
        sized = func in SIZED_BY_NUMBERS and not kwargs.get("output_size")
        if sized:
            self._wait(func)
            assert known, f"{self._where()}: the size of {func}'s result is known on the device only"
        written = [x for x, a in self._arguments(func, args, kwargs) if a.alias_info and a.alias_info.is_write]
        numbers = None
        if known:
            numbers = func(*self._real(args), **self._real(kwargs) | ({"device": "cpu"} if to_device else {}))
        for x in written:
            if not known and x in self._numbers:
                self._numbers[x].zero_()
        with self._mode:
            if sized:
                result = tree_map(lambda x: torch.empty(x.shape, dtype=x.dtype, device=CUDA), numbers)
            else:
                result = func(*args, **kwargs)
        if written and not isinstance(written[0], FakeTensor):
            # a copy into a tensor on the host
            self._wait(func)
            return written[0]
        return self._kept(func, result, numbers, written)

    def _kept(self, func: Any, result: Any, numbers: Any, written: list[Tensor]) -> Any:
        """Remember the numbers of a result, or return them if it is on the host."""
        results, spec = tree_flatten(result)
        known = tree_flatten(numbers)[0] if numbers is not None else [None] * len(results)
        found = []
        for x, y in zip(results, known, strict=True):
            if not isinstance(x, FakeTensor):
                found.append(x)
            elif x.device.type == "cpu":
                self._wait(func)
                found.append(torch.zeros(x.shape, dtype=x.dtype) if y is None else y)
            else:
                if y is not None and not any(x is w for w in written):
                    self._numbers[x] = y
                elif not x.dtype.is_floating_point and x not in self._numbers:
                    self._numbers[x] = torch.zeros(x.shape, dtype=x.dtype)
                found.append(x)
        return tree_unflatten(found, spec)

    def _count_copies(self, func: Any, args: Any, kwargs: Any) -> None:
        """Record copies from the host to the device that wait: all except those of pinned memory that need not."""

        def on_host(x: Any) -> bool:
            return isinstance(x, Tensor) and not isinstance(x, FakeTensor) and x.numel() > 0

        if func in COPIES:
            source = args[0] if func is aten._to_copy.default else args[1]
            direct = kwargs.get("non_blocking") or (func is aten.copy_.default and args[2:] and args[2])
            if on_host(source) and not (direct and source in self._pinned):
                self._wait(func)
        elif func in INDEXED and any(map(on_host, (*args[1], *args[2:3]))):
            # torch sends indices, and a value without dimensions, by itself
            self._wait(func)

    def _without_masks(self, func: Any, args: Any) -> Any:
        """Replace masks with the indices that they stand for, whose number a device tells the host."""
        indices: list[Any] = []
        for index in args[1]:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                indices.append(index)
                continue
            self._wait(func)
            for places in self._numbers[index].nonzero(as_tuple=True):
                with self._mode:
                    indices.append(torch.empty(places.shape, dtype=places.dtype, device=CUDA))
                self._numbers[indices[-1]] = places
        return (args[0], indices, *args[2:])

    @staticmethod
    def _arguments(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
        schema = func._schema.arguments
        yield from zip(args, schema, strict=False)
        for argument in schema:
            if argument.name in kwargs:
                yield kwargs[argument.name], argument

    def _real(self, values: Any) -> Any:
        return tree_map(lambda x: self._numbers[x] if isinstance(x, FakeTensor) else x, values)

    def _wait(self, func: Any) -> None:
        self.waits.append(f"{self._where()} {func.name().removeprefix('aten::')}")

    @staticmethod
    def _where() -> str:
        """Name the innermost line that is not torch's."""
        for frame in reversed(traceback.extract_stack()):
            path = Path(frame.filename)
            if path.name not in PASSED and "torch" not in path.parts and path.suffix == ".py":
                folders = [i for i, part in enumerate(path.parts) if part in ROOTS]
                return f"{'/'.join(path.parts[folders[-1] if folders else -1 :])}:{frame.lineno}"
        return "elsewhere"
