"""What every training run needs: log, checkpoints, evaluation, learning curves."""
