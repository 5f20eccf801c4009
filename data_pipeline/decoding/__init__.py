"""Encoded images to pixels: by threads (simplejpeg, Pillow) or by DALI."""
