"""The ``array-api`` backend: CTC in whole-array calls of the Python array API standard 2024.12.

One idea a module, in the order of a call:

``emissions``
    Logits of the labels and the blank, frame by frame, as mantissa and exponent.
``lattice``
    The forward recursion over frames in extended exponents, in both directions at once.
``scaled_probabilities``
    The same in plain float64 probabilities, for NumPy: faster, and only used where it can be shown
    to be as exact.
``transition_matrix``
    Small problems, for NumPy, in few calls: products with the matrix of transitions.
``occupancy``
    Where the two directions meet: the likelihood, and the probability of each state.
``gradient``
    Softmax minus occupancy, added up by class, in blocks.
``recursion``
    Both directions as one batch, block by block: the steps above in their order.
``hessian``
    Second derivatives times a vector.
``columns``, ``viterbi``, ``best_path``
    Logits by label, a few frames of the recursion for the best path, and the way back in blocks.
``context``
    The library, device and dtypes of a call, and the constants of the number format.
``loops``
    The one seam to the library: how to loop over frames, and how to put blocks together.
``kernels``
    The functions that the backend registers.

Nothing here writes into an array that it didn't make, knows which library it runs on, or reads a
value, unless the loop says that values can be read at no cost (NumPy).
"""
