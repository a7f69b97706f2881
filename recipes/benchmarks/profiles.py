"""Where the time of a training update goes, by kind of operation, for `benchmark.py`.

PyTorch's profiler clocks every operation without those that it calls. It slows the operations down, small ones the
most, so the rates of these rows are lower than those of the other sections. Only the shares count.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from papers_to_gpt.benchmarks.gpts import train_gpt
from papers_to_gpt.benchmarks.ours import run_recipe
from papers_to_gpt.benchmarks.workload import Stopwatch
from papers_to_gpt.settings.benchmarking import Workload

# Columns, and their titles. Softmax includes the loss, and copies casts and look-ups. The rest is the time outside of
# operations and in those of no other column.
SHARES = {
    "products_percent": "products %",
    "recurrent_percent": "LSTM %",
    "softmax_percent": "softmax %",
    "elementwise_percent": "elementwise %",
    "copies_percent": "copies %",
    "optimizer_percent": "optimizer %",
    "rest_percent": "rest %",
}

# Names of operations without their namespaces and without a closing "_", which marks those in place. oneDNN's layer of
# an LSTM is one operation from the first time step to the last, products and gates together.
OPERATIONS = {
    "products_percent": "mm addmm bmm baddbmm matmul linear mkldnn_linear _linear_pointwise addmv mv dot",
    "recurrent_percent": "mkldnn_rnn_layer mkldnn_rnn_layer_backward lstm",
    "softmax_percent": """softmax _softmax _softmax_backward_data log_softmax _log_softmax _log_softmax_backward_data
        logsumexp max amax gather scatter scatter_add nll_loss_forward nll_loss_backward _LinearCrossEntropy
        _LinearCrossEntropyBackward scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_flash_attention_for_cpu_backward""",
    "elementwise_percent": """add sub rsub mul div neg exp log sqrt rsqrt pow tanh tanh_backward sigmoid
        sigmoid_backward relu threshold_backward gelu gelu_backward where masked_fill eq ne lt le gt ge bitwise_and
        bitwise_or logical_not addcmul lerp maximum minimum clamp bernoulli random native_layer_norm
        native_layer_norm_backward sum mean _Dropout _DropoutBackward""",
    "copies_percent": """copy _to_copy clone contiguous cat stack index index_select index_put _index_put_impl
        embedding embedding_dense_backward slice_backward select_backward flip fill zero zeros
        constant_pad_nd unfold""",
    "optimizer_percent": """_fused_adam _fused_adamw _foreach_norm _foreach_mul _foreach_add linalg_vector_norm
        Optimizer.step#Adam.step Optimizer.step#AdamW.step Optimizer.zero_grad#Adam.zero_grad
        Optimizer.zero_grad#AdamW.zero_grad""",
}
KINDS = {name: kind for kind, names in OPERATIONS.items() for name in names.split()}


class ProfiledStopwatch(Stopwatch):
    """A stopwatch that profiles what it clocks."""

    def start(self) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU], acc_events=True)
        self.profiler.start()
        super().start()

    def stop(self) -> None:
        if not self.clocked:
            super().stop()
            self.profiler.stop()

    def shares(self) -> dict[str, float]:
        """Returns the share of each kind of operation in the clocked time, in percent."""
        seconds = dict.fromkeys(SHARES, 0.0)
        for event in self.profiler.key_averages():
            kind = KINDS.get(event.key.rpartition("::")[2].removesuffix("_"))
            if kind is not None:
                seconds[kind] += event.self_cpu_time_total / 1e6
        seconds["rest_percent"] = self.clocked["seconds"] - sum(seconds.values())
        return {kind: 100 * each / self.clocked["seconds"] for kind, each in seconds.items()}


def profile_translator(work: Workload, folder: Path, make_config: Callable) -> dict[str, Any]:
    """Profiles the training of one of our translators with the recipe's loop; `items` are target tokens."""
    watch = ProfiledStopwatch()
    with tempfile.TemporaryDirectory() as output_dir:
        updates = work.warm_up_updates + work.updates
        model = run_recipe(work, folder, make_config, Path(output_dir), updates, watch)
    return watch.result(model) | watch.shares()


def profile_gpt(work: Workload, folder: Path, dropout: float) -> dict[str, Any]:
    """Profiles the training of our GPT-1; `items` are the tokens read: the first of a sequence is not predicted."""
    watch = ProfiledStopwatch()
    return train_gpt(work, folder, "ours", dropout, watch=watch) | watch.shares()
