"""Machine code for this processor, made at run time: loops over the tiles of pictures, which no library offers.

They hold a tile's values in vector registers. The same in PyTorch's operations would read and write memory for each.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from llvmlite import binding, ir

LANES = 16  # channels in a vector: a register of AVX-512, several of a processor with narrower ones

_INDEX, _FLOAT = ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_NUMBERS = 8
_ALIGN = 4  # bytes; of a float, for vectors start anywhere
_FUSED = ("contract",)  # a product and a sum may become one instruction

Address = ir.Value
Place = tuple[ir.Value, ir.Value]
"""Of a pixel: its distance from the first one in floats, and whether it is in the picture."""


class TileLoop:
    """A function that is being written: a loop over tiles of pictures (N, height, width, channels), float32.

    Its arguments are the addresses of `arrays`, then as int64: height, width, channels (a multiple of `LANES`), tiles
    down and across a picture, the first tile and the one after the last, and the floats from one matrix to the next.
    Tiles are counted over all pictures. A matrix has a row of all channels for each tile.

    Args:
        arrays: how many arrays it works on.
    """

    def __init__(self, arrays: int):
        kind = ir.FunctionType(ir.VoidType(), [_FLOAT.as_pointer()] * arrays + [_INDEX] * _NUMBERS)
        self._module = ir.Module()
        self._function = ir.Function(self._module, kind, "tiles")
        self._build = ir.IRBuilder(self._function.append_basic_block())
        self.arrays: Sequence[Address] = self._function.args[:arrays]
        numbers = self._function.args[arrays:]
        self._height, self._width, self._channels, self._down, self._across, self._first, self._end, self._step = (
            numbers
        )

    def tiles(self) -> AbstractContextManager[ir.Value]:
        """A loop around what is written in this context: the number of the tile."""
        return self._counting(self._first, self._end, 1)

    def vectors(self) -> AbstractContextManager[ir.Value]:
        """A loop around what is written in this context: the first of the next `LANES` channels."""
        return self._counting(_INDEX(0), self._channels, LANES)

    @contextmanager
    def _counting(self, start: ir.Value, end: ir.Value, step: int) -> Iterator[ir.Value]:
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

    def pixels(self, tile: ir.Value, step: int, margin: int, size: int) -> list[list[Place]]:
        """The size x size pixels from `margin` above and left of a tile, where tiles are `step` pixels apart."""
        build = self._build
        per_picture = build.mul(self._down, self._across)
        picture, place = build.sdiv(tile, per_picture), build.srem(tile, per_picture)
        corner = build.sdiv(place, self._across), build.srem(place, self._across)
        top, left = (build.sub(build.mul(cell, _INDEX(step)), _INDEX(margin)) for cell in corner)
        rows = [build.add(top, _INDEX(i)) for i in range(size)]
        columns = [build.add(left, _INDEX(j)) for j in range(size)]
        # unsigned, so that places before the first are beyond the last
        row_inside = [build.icmp_unsigned("<", row, self._height) for row in rows]
        column_inside = [build.icmp_unsigned("<", column, self._width) for column in columns]
        above = build.mul(picture, self._height)
        starts = [build.mul(build.add(above, row), self._width) for row in rows]
        return [
            [
                (build.mul(build.add(start, column), self._channels), build.and_(in_row, in_column))
                for column, in_column in zip(columns, column_inside, strict=True)
            ]
            for start, in_row in zip(starts, row_inside, strict=True)
        ]

    def pixel(self, place: Place, array: Address, outside: Address) -> Address:
        """Of a pixel's channels in an array; `outside` for those that are not in the picture."""
        distance, inside = place
        return self._build.select(inside, self._build.gep(array, [distance]), outside)

    def rows(self, tile: ir.Value, matrices: Address, count: int) -> list[Address]:
        """Of a tile's row in each of `count` matrices."""
        build = self._build
        row = build.mul(build.sub(tile, self._first), self._channels)
        return [build.gep(matrices, [build.add(row, build.mul(_INDEX(i), self._step))]) for i in range(count)]

    def load(self, address: Address, channel: ir.Value) -> ir.Value:
        return self._build.load(self._vector_at(address, channel), align=_ALIGN)

    def store(self, value: ir.Value, address: Address, channel: ir.Value) -> None:
        self._build.store(value, self._vector_at(address, channel), align=_ALIGN)

    def _vector_at(self, address: Address, channel: ir.Value) -> Address:
        return self._build.bitcast(self._build.gep(address, [channel]), _VECTOR.as_pointer())

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._build.fadd(a, b)

    def relu(self, value: ir.Value) -> ir.Value:
        """As PyTorch's: what is not a number stays that."""
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        return self._build.select(self._build.fcmp_ordered("<", value, zero), zero, value)

    def transformed(self, matrix: np.ndarray, square: Sequence[Sequence[ir.Value]]) -> list[list[ir.Value]]:
        """matrix x square x transposed matrix, in each lane."""
        columns = [self._product(matrix, column) for column in zip(*square, strict=True)]
        return [self._product(matrix, row) for row in zip(*columns, strict=True)]

    def _product(self, matrix: np.ndarray, values: Sequence[ir.Value]) -> list[ir.Value]:
        return [self._sum(row, values) for row in matrix.tolist()]

    def _sum(self, factors: Sequence[float], values: Sequence[ir.Value]) -> ir.Value:
        """Sum of products; at least one factor is not 0."""
        build, total = self._build, None
        for factor, value in sorted(zip(factors, values, strict=True), key=lambda term: abs(term[0]) != 1):
            if factor == 0:
                continue
            if abs(factor) != 1:
                value = build.fmul(value, ir.Constant(_VECTOR, [abs(factor)] * LANES), flags=_FUSED)
            if total is None:
                total = value if factor > 0 else build.fneg(value)
            else:
                total = (build.fadd if factor > 0 else build.fsub)(total, value, flags=_FUSED)
        return total

    def finished(self) -> Callable[..., None]:
        """The function as machine code. It lets go of Python's lock while it runs."""
        self._build.ret_void()
        module = binding.parse_assembly(str(self._module))
        engine = binding.create_mcjit_compiler(module, _machine())  # LLVM's passes over the text gain nothing here
        engine.finalize_object()
        kinds = [ctypes.c_void_p] * len(self.arrays) + [ctypes.c_int64] * _NUMBERS
        function = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address("tiles"))
        function.owner = engine  # of the code, which lives as long as the function
        return function


def _machine() -> binding.TargetMachine:
    """Each engine owns one."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    features = binding.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=2, jit=True)
