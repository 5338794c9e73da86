"""The ``array-api`` backend: CTC in whole-array calls of the Python array API standard 2024.12.

One idea a module, in the order of a call:

``emissions``
    Logits of the labels and the blank, frame by frame, as mantissa and exponent.
``lattice``
    The forward recursion over frames in extended exponents, in both directions at once.
``occupancy``
    Where the two directions meet: the likelihood, and the probability of each state.
``gradient``
    Softmax minus occupancy, added up by class, in blocks.
``loops``
    The one seam to the library: how to loop over frames, and how to put blocks together.
``kernels``
    The functions that the backend registers.

Nothing here reads a value of an array, writes into one that it didn't make, or knows which library
it runs on.
"""
