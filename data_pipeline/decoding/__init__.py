"""Decoding of images to pixels, by threads (simplejpeg, Pillow) or by DALI."""
