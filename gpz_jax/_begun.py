"""Imported first: ``python -m gpz_jax.…`` and ``gpz`` end by SIGTERM and Ctrl-C at once from here on, in one line.

What follows imports jax for a second or two, and Python would answer Ctrl-C with pages of it. Where the package is
imported by somebody's program its signals are left alone.
"""

from gpz_jax.interruption import end_from_now_on, is_our_command

if is_our_command():
    end_from_now_on()
