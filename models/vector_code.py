"""Machine code for this processor, made at run time: loops over the tiles of pictures, which no library offers.

They read and write each value once, many channels in one instruction; PyTorch's operations would go through memory
for every step. What a tile needs is written as loops, not in full, so that the code is made in a moment.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from llvmlite import binding, ir

LANES = 16  # channels in a vector: a register of AVX-512, several of a processor with narrower ones

_INDEX, _FLOAT = ir.IntType(64), ir.FloatType()
_ADDRESS = _FLOAT.as_pointer()
VECTOR = ir.VectorType(_FLOAT, LANES)
_NUMBERS = 8
_ALIGN = 4  # bytes; of a float, for vectors start anywhere
_FUSED = ("contract",)  # a product and a sum may become one instruction

Address = ir.Value


class TileLoop:
    """A function that is being written: a loop over tiles of pictures (N, height, width, channels), float32.

    Its arguments are the addresses of `arrays`, then as int64: height, width, channels (a multiple of `LANES`), tiles
    down and across a picture, the first tile and the one after the last, and the floats from one matrix to the next.
    Tiles are counted over all pictures. A matrix has a row of all channels for each tile.

    Args:
        module: that it becomes a part of.
        arrays: how many arrays it works on.
    """

    def __init__(self, module: ir.Module, arrays: int):
        kind = ir.FunctionType(ir.VoidType(), [_ADDRESS] * arrays + [_INDEX] * _NUMBERS)
        self._function = ir.Function(module, kind, module.get_unique_name("tiles"))
        self._build = ir.IRBuilder(self._function.append_basic_block())
        self.arrays: Sequence[Address] = self._function.args[:arrays]
        numbers = self._function.args[arrays:]
        self._height, self._width, self._channels, self._down, self._across, self._first, self._end, self._step = (
            numbers
        )

    def tiles(self) -> AbstractContextManager[ir.Value]:
        """A loop around what is written in this context: the number of the tile."""
        return self._counting(self._first, self._end)

    def vectors(self) -> AbstractContextManager[ir.Value]:
        """A loop around what is written in this context: the first of the next `LANES` channels."""
        return self._counting(_INDEX(0), self._channels, LANES)

    def places(self, count: int) -> AbstractContextManager[ir.Value]:
        """A loop around what is written in this context: a row or column of a tile."""
        return self._counting(_INDEX(0), _INDEX(count))

    @contextmanager
    def _counting(self, start: ir.Value, end: ir.Value, step: int = 1) -> Iterator[ir.Value]:
        build, before = self._build, self._build.block
        body, after = self._function.append_basic_block(), self._function.append_basic_block()
        build.cbranch(build.icmp_signed("<", start, end), body, after)
        build.position_at_end(body)
        count = build.phi(_INDEX)
        count.add_incoming(start, before)
        yield count
        following = build.add(count, _INDEX(step))
        count.add_incoming(following, build.block)
        build.cbranch(build.icmp_signed("<", following, end), body, after)
        build.position_at_end(after)

    def table(self, kind: ir.Type, count: int) -> ir.Value:
        """Memory of the function's own."""
        with self._build.goto_entry_block():
            return self._build.alloca(kind, count)

    def find_pixels(
        self, tile: ir.Value, step: int, margin: int, size: int, arrays: Sequence[tuple[Address, Address]]
    ) -> list[ir.Value]:
        """Tables of addresses, for each array, of the size x size pixels from `margin` above and left of a tile.

        Tiles are `step` pixels apart. `arrays`: each with the address that stands for pixels outside of the picture.
        """
        build = self._build
        tables = [self.table(_ADDRESS, size * size) for _ in arrays]
        per_picture = build.mul(self._down, self._across)
        picture, place = build.sdiv(tile, per_picture), build.srem(tile, per_picture)
        corner = build.sdiv(place, self._across), build.srem(place, self._across)
        top, left = (build.sub(build.mul(cell, _INDEX(step)), _INDEX(margin)) for cell in corner)
        above = build.mul(picture, self._height)
        with self.places(size) as i:
            row = build.add(top, i)
            in_rows = build.icmp_unsigned("<", row, self._height)  # what is before the first is beyond the last so
            start = build.mul(build.add(above, row), self._width)
            with self.places(size) as j:
                column = build.add(left, j)
                inside = build.and_(in_rows, build.icmp_unsigned("<", column, self._width))
                distance = build.mul(build.add(start, column), self._channels)
                for table, (array, outside) in zip(tables, arrays, strict=True):
                    address = build.select(inside, build.gep(array, [distance]), outside)
                    self.keep(address, table, self.at(i, size, j))
        return tables

    def at(self, i: ir.Value | int, width: int, j: ir.Value | int) -> ir.Value:
        """i x width + j"""
        i, j = (value if isinstance(value, ir.Value) else _INDEX(value) for value in (i, j))
        return self._build.add(self._build.mul(i, _INDEX(width)), j)

    def rows(self, tile: ir.Value, matrices: Address, first: ir.Value, count: int, by: int = 1) -> list[Address]:
        """Of a tile's row in `count` matrices, every `by`-th from the first."""
        build = self._build
        row = build.mul(build.sub(tile, self._first), self._channels)
        addresses = [build.gep(matrices, [build.add(row, build.mul(first, self._step))])]
        between = build.mul(self._step, _INDEX(by))
        while len(addresses) < count:
            addresses.append(build.gep(addresses[-1], [between]))
        return addresses

    def kept(self, table: ir.Value, place: ir.Value) -> ir.Value:
        return self._build.load(self._build.gep(table, [place]))

    def keep(self, value: ir.Value, table: ir.Value, place: ir.Value) -> None:
        self._build.store(value, self._build.gep(table, [place]))

    def load(self, address: Address, channel: ir.Value) -> ir.Value:
        return self._build.load(self._vector_at(address, channel), align=_ALIGN)

    def store(self, value: ir.Value, address: Address, channel: ir.Value) -> None:
        self._build.store(value, self._vector_at(address, channel), align=_ALIGN)

    def _vector_at(self, address: Address, channel: ir.Value) -> Address:
        return self._build.bitcast(self._build.gep(address, [channel]), VECTOR.as_pointer())

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._build.fadd(a, b)

    def relu(self, value: ir.Value) -> ir.Value:
        """As PyTorch's: what is not a number stays that."""
        zero = ir.Constant(VECTOR, [0.0] * LANES)
        return self._build.select(self._build.fcmp_ordered("<", value, zero), zero, value)

    def product(self, matrix: np.ndarray, values: Sequence[ir.Value]) -> list[ir.Value]:
        """A matrix, of at least one number other than 0 in a row, and a vector's product, in each lane."""
        return [self._sum(row, values) for row in matrix.tolist()]

    def _sum(self, factors: Sequence[float], values: Sequence[ir.Value]) -> ir.Value:
        build, total = self._build, None
        for factor, value in sorted(zip(factors, values, strict=True), key=lambda term: abs(term[0]) != 1):
            if factor == 0:
                continue
            if abs(factor) != 1:
                value = build.fmul(value, ir.Constant(VECTOR, [abs(factor)] * LANES), flags=_FUSED)
            if total is None:
                total = value if factor > 0 else build.fneg(value)
            else:
                total = (build.fadd if factor > 0 else build.fsub)(total, value, flags=_FUSED)
        return total

    def finish(self) -> tuple[str, int]:
        """End the function: its name, and how many arrays it takes."""
        self._build.ret_void()
        return self._function.name, len(self.arrays)


def compiled(module: ir.Module, functions: Sequence[tuple[str, int]]) -> list[Callable[..., None]]:
    """A module's finished functions as machine code. They let go of Python's lock while they run."""
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(module)), _machine())
    engine.finalize_object()
    callables = []
    for name, arrays in functions:
        kinds = [ctypes.c_void_p] * arrays + [ctypes.c_int64] * _NUMBERS
        function = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address(name))
        function.owner = engine  # of the code, which lives as long as its functions
        callables.append(function)
    return callables


def _machine() -> binding.TargetMachine:
    """A new one, which its engine owns. LLVM's passes over the code gain nothing here, so that none are run."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    features = binding.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=2, jit=True)
