"""See and change what happens inside a diffusers transformer, without replacing any of its code."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from seg4diff.errors import UserError

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The model's own attention: query, key, value (B, heads, tokens, d) -> (B, heads, tokens, d)."""
Handler = Callable[[Tensor, Tensor, Tensor, float, Tensor | None, Attend], Tensor]
"""(query, key, value, factor on the scores, mask, the model's own attention) -> what the block takes as the output of its attention."""

_handling: ContextVar[bool] = ContextVar("handling", default=False)
"""Whether a handler runs: the attention that it computes itself is not handled again."""


class _AttentionCall(TorchFunctionMode):
    """Hands the one attention call of a module to a handler."""

    def __init__(self, handle: Handler) -> None:
        super().__init__()
        self._handle, self.handled = handle, False

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is not scaled_dot_product_attention or self.handled or _handling.get():
            return function(*args, **(kwargs or {}))
        self.handled = True
        return self._call(*args, **(kwargs or {}))

    def _call(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            inner = _handling.set(False)  # another handler of the same block, installed earlier, has its turn
            try:
                return scaled_dot_product_attention(query, key, value, *args, **kwargs)
            finally:
                _handling.reset(inner)

        scale, mask = kwargs.get("scale"), args[0] if args else kwargs.get("attn_mask")
        outer = _handling.set(True)
        try:
            return self._handle(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale, mask, attend)
        finally:
            _handling.reset(outer)


@contextmanager
def handle_attention(name: str, module: nn.Module, handle: Handler) -> Iterator[None]:
    """Let `handle` see and return the attention of a module in every pass; several of these nest, the last one opened sees it first.

    torch's `scaled_dot_product_attention` is where queries and keys are complete, after norms and rotary embedding, and values have been
    split from whatever projection they share. While this is open, the module computes its attention by torch's own kernels, also where
    another attention backend of diffusers is set.

    Args:
        name: what to call the module in an error.
        module: an attention module of the transformer.
        handle: see `Handler`.
    """
    calls: list[tuple[_AttentionCall, Any]] = []

    def enter(*_: Any) -> None:
        processor: Any = module.processor  # an object of diffusers, no module
        backend = getattr(processor, "_attention_backend", None)
        if backend is not None and "native" not in backend.value:
            processor._attention_backend = type(backend)("native")
        calls.append((call := _AttentionCall(handle), backend))
        call.__enter__()

    def leave(*_: Any) -> None:
        call, backend = calls.pop()
        call.__exit__(None, None, None)
        if backend is not None:
            processor: Any = module.processor
            processor._attention_backend = backend

    def check(*_: Any) -> None:
        if not calls[-1][0].handled:
            raise UserError(
                f"the attention of {name} was not computed by torch's scaled_dot_product_attention, so it can be neither read nor edited: "
                "unset the attention backend (`attention`, or the variable DIFFUSERS_ATTN_BACKEND)."
            )

    hooks = [module.register_forward_pre_hook(enter), module.register_forward_hook(check)]
    hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        while calls:  # an interrupt is no Exception, so torch did not call `leave`
            leave()


@contextmanager
def see_arguments(module: nn.Module, seen: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call `seen` with the arguments of each call of `module`, by name."""
    signature = inspect.signature(module.forward)
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen(signature.bind(*args, **kwargs).arguments), with_kwargs=True, prepend=True
    )
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def change_arguments(module: nn.Module, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """Replace arguments of each call of `module`: `change` takes them by name and returns those that differ."""
    signature = inspect.signature(module.forward)

    def replace(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        arguments = signature.bind(*args, **kwargs).arguments
        return (), arguments | change(arguments)

    hook = module.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def change_output(module: nn.Module, change: Callable[[dict[str, Any], Any], Any]) -> Iterator[None]:
    """Replace the output of each call of `module` by `change(arguments by name, output)`; of several, the last one opened comes first."""
    signature = inspect.signature(module.forward)
    hook = module.register_forward_hook(
        lambda _, args, kwargs, output: change(signature.bind(*args, **kwargs).arguments, output), with_kwargs=True, prepend=True
    )
    try:
        yield
    finally:
        hook.remove()


def uncompile(block: nn.Module) -> None:
    """Let one block run without `torch.compile`: a compiled block does not notice hooks that come later.

    For good, and not only while the hooks are there: gradient checkpointing must find the same block again in the backward pass.
    torch has no public way to ask this of a module that was compiled in place; the contract tests hold this one.
    """
    block._compiled_call_impl = None
