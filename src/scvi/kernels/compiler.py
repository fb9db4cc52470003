"""What numba is asked for by all compiled code of this package, so that nobody waits for more of it than is used."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from numba.core.compiler import CompilerBase, DefaultPassBuilder

# Steps of numba for what is not here: closures, whole arrays, errors, constants that are looked for. They are left out
# by name, so that one which another version does not have is no error.
UNUSED_PASSES = {
    "WithLifting",
    "InlineClosureLikes",
    "RewriteSemanticConstants",
    "DeadBranchPrune",
    "RewriteDynamicRaises",
    "MakeFunctionToJitFunction",
    "FindLiterallyCalls",
    "LiteralUnroll",
    "LiteralPropagationSubPipelinePass",
    "InlineOverloads",
    "NopythonRewrites",
    "NoPythonSupportedFeatureValidation",
    "AnnotateTypes",
    "DumpParforDiagnostics",
}


class Compiler(CompilerBase):
    """numba's, without the steps that loops over arrays have no use for: a tenth of its time."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [step for step in passes.passes if step[0].__name__ not in UNUSED_PASSES]
        passes.finalize()
        return [passes]

    def compile_extra(self, func: Callable[..., object]) -> Any:
        """With the collector of garbage at rest: it would look through all objects of a program, again and again.

        One thread at a time comes here, which holds numba's lock.
        """
        collects = gc.isenabled()
        gc.disable()
        try:
            return super().compile_extra(func)
        finally:
            if collects:
                gc.enable()


# No reassociation: log1p and the rounding trick rely on the order of operations. Sums have a function of their own.
OPTIONS = {
    "nogil": True,
    "cache": True,
    "fastmath": {"contract", "nsz"},
    "error_model": "numpy",
    "no_cfunc_wrapper": True,
    "pipeline_class": Compiler,
}
PLAIN = {key: value for key, value in OPTIONS.items() if key != "fastmath"}
SUMMING = {**OPTIONS, "fastmath": {"contract", "nsz", "reassoc"}}

# A function that kernels call has to become part of them, so it is a PART, which LLVM puts in before it looks for
# vector instructions. One that stayed a function would be linked in another form to a kernel that has just been
# compiled than to the same kernel from the disk, and the last bits of the two would differ. A PART has no file of its
# own and no door for Python, which may not call it. It is made machine code once, for nothing; a function of some lines
# that one kernel calls, in one place, is therefore put there by numba, as Python code, before types are found. At
# several places that would take longer, for the same bits.
PART = {**OPTIONS, "cache": False, "forceinline": True, "no_cpython_wrapper": True}
SUMMING_PART = {**PART, "fastmath": SUMMING["fastmath"]}
CALLED_ONCE = {**PART, "inline": "always"}
