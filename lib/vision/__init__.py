"""Building blocks of detectors: backbones, windows and tiles, pseudo anomalies, coresets, distillation, training."""
