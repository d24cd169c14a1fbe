"""What detectors are built from: backbones, windows and tiles, pseudo anomalies, memories, distillation, fitting."""
