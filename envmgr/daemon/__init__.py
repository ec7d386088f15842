"""The daemon of one store: who asks (`peers`), what they may (`service`), how it is answered (`routes`)."""
