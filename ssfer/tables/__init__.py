"""The paper's tables as data: which settings make each row, running them through DVC, ours beside the printed."""
