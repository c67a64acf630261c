"""What the chapters show with: claims, predictions, figures, exercises."""
