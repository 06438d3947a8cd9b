"""What Numba lacks: C's ``sprintf`` and ``fprintf``, and OpenBLAS, called by the names that the linker knows."""

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .native import openblas

binding.load_library_permanently(str(openblas()))


def _variadic(name):
    """Return C's ``int name(pointer, format, ...)``, to which the values after the format are given as a tuple."""

    @intrinsic
    def function(typingctx, pointer, template, values):
        if not isinstance(template, types.StringLiteral):
            return None  # Numba asks again, with the literal

        def generate(context, builder, signature, arguments):
            byte = cgutils.voidptr_t
            kind = ir.FunctionType(ir.IntType(32), [byte, byte], var_arg=True)
            callee = cgutils.get_or_insert_function(builder.module, kind, name)
            text = context.insert_const_string(builder.module, template.literal_value)
            place = builder.inttoptr(arguments[0], byte)
            written = builder.call(callee, [place, text, *cgutils.unpack_tuple(builder, arguments[2])])
            return builder.sext(written, ir.IntType(64))

        return types.int64(types.intp, template, values), generate

    return function


sprintf, fprintf = _variadic("sprintf"), _variadic("fprintf")
fopen = types.ExternalFunction("fopen", types.intp(types.intp, types.intp))
fclose = types.ExternalFunction("fclose", types.int32(types.intp))

_DGEMM = types.void(
    *[types.int32] * 3, *[types.int64] * 3, types.float64,
    *[types.intp, types.int64] * 2, types.float64, types.intp, types.int64,
)  # fmt: skip
_dgemm = types.ExternalFunction("scipy_cblas_dgemm64_", _DGEMM)
_ROW_MAJOR, _NO_TRANS, _TRANS = 101, 111, 112


@njit
def multiply(transpose, m, n, k, a, b, c):
    """Make ``c``, of m rows and n columns, the product of ``a``, transposed or not, and ``b``, both C-contiguous."""
    kind, leading = (_TRANS, m) if transpose else (_NO_TRANS, k)
    _dgemm(_ROW_MAJOR, kind, _NO_TRANS, m, n, k, 1.0, a.ctypes.data, leading, b.ctypes.data, n, 0.0, c.ctypes.data, n)
