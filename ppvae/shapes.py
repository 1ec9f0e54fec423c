"""Array annotations that are checked where jaxtyping is installed and plain `Tensor` elsewhere.

`Float[Tensor, "K B"]` reads: floating point, K particles by B data. The test extra installs jaxtyping and
its runtime checker; users who only train do not need them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Shaped
    except ImportError:

        class _Unchecked:
            def __class_getitem__(cls, item):
                return item[0]

        Bool = Float = Int = Shaped = _Unchecked

__all__ = ["Bool", "Float", "Int", "Shaped"]
