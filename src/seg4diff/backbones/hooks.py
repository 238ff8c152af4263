"""Listen to modules of a host transformer while it runs untouched."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn


@contextmanager
def listen(modules: Mapping[str, nn.Module], ready: Callable[[dict[str, Tensor]], None]) -> Iterator[None]:
    """Call `ready` with the outputs of all modules by name, each time the last of them has run.

    Hooks are removed on exit, also after an exception in the middle of installing.
    """
    outputs: dict[str, Tensor] = {}

    def collect(name: str, output: Tensor) -> None:
        outputs[name] = output
        if len(outputs) == len(modules):
            complete = dict(outputs)
            outputs.clear()
            ready(complete)

    with ExitStack() as stack:
        for name, module in modules.items():
            hook = module.register_forward_hook(lambda _module, _args, output, name=name: collect(name, output))
            stack.callback(hook.remove)
        yield


@contextmanager
def listen_to_arguments(module: nn.Module, seen: Callable[[dict], None]) -> Iterator[None]:
    """Call `seen` with the keyword arguments of each call of `module`."""
    hook = module.register_forward_pre_hook(lambda _module, _args, arguments: seen(arguments), with_kwargs=True)
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
