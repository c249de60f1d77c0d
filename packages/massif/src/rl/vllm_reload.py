"""vLLM's CPU build lays experts out anew when it starts, and not when it takes other weights: after reload_weights 0.32
computes something else. With this it does so every time:

    PYTHONPATH=packages/massif/src/rl VLLM_SERVER_DEV_MODE=1 vllm serve … --worker-extension-cls vllm_reload.Worker
"""
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

lay_out = UnquantizedFusedMoEMethod._setup_kernel


def lay_out_anew(self, layer, w13, w2):
    # Where there is a kernel, its weights are taken as they come.
    self.moe_kernel = None
    lay_out(self, layer, w13, w2)


UnquantizedFusedMoEMethod._setup_kernel = lay_out_anew


class Worker:
    """Named so that every worker imports this file."""
