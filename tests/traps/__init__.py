"""Ways in which fine-tuning goes silently wrong: a detector for each, and proof that it sees.

A detector passes on our code, and fails on a variant of it with one line broken: a patch or a
subclass inside the test. Paths begin at ``tests/``; `test_table` keeps them true.

| trap | what goes wrong | detector | broken variant |
|------|-----------------|----------|----------------|
| 1 | mean of micro-batch means | engine/test_fit.py::test_micro_batches_change_nothing | \
engine/test_fit.py::test_the_detector_sees_a_mean_of_means |
| 2 | denominator counts unshifted labels | traps/test_language.py::test_trap_2 | \
traps/test_language.py::test_trap_2 |
| 3 | each process divides by its own count | \
equivalence/test_processes.py::test_trap_3 | equivalence/test_processes.py::test_trap_3 |
| 4 | pad is eos, labels masked by token id | traps/test_chat.py::test_trap_4 | \
traps/test_chat.py::test_trap_4 |
| 5 | stop token outside the assistant mask | traps/test_chat.py::test_trap_5 | \
traps/test_chat.py::test_trap_5 |
| 6 | packed examples see each other | traps/test_language.py::test_trap_6 | \
traps/test_language.py::test_trap_6 |
| 7 | two beginning-of-sequence tokens | traps/test_chat.py::test_trap_7 | \
traps/test_chat.py::test_trap_7 |
| 8 | boundary inside a token | traps/test_chat.py::test_trap_8 | \
traps/test_chat.py::test_trap_8 |
| 9 | truncation eats the answer or its stop token | traps/test_chat.py::test_trap_9 | \
traps/test_chat.py::test_trap_9 |
| 10 | every label masked | traps/test_training.py::test_trap_10 | \
traps/test_training.py::test_trap_10 |
| 11 | labels shifted twice, or not at all | engine/test_language.py::\
test_the_causal_loss_is_the_one_by_hand | engine/test_language.py::\
test_the_causal_loss_is_the_one_by_hand |
| 12 | metrics averaged over uneven batches | traps/test_training.py::test_trap_12 | \
traps/test_training.py::test_trap_12 |
| 13 | left padding without position ids | traps/test_language.py::test_trap_13 | \
traps/test_language.py::test_trap_13 |
| 14 | schedule stepped per micro-batch; warm-up of 0 | traps/test_training.py::test_trap_14 | \
traps/test_training.py::test_trap_14 |
| 15 | parameters kept in bf16 | traps/test_training.py::test_trap_15 | \
traps/test_training.py::test_trap_15 |
| 16 | resume is not exact | engine/test_fit.py::test_resume_at_every_step_is_exact | \
engine/test_fit.py::test_generators_are_restored_too |
| 17 | LoRA with tied or resized embeddings | traps/test_parts.py::test_trap_17 | \
traps/test_parts.py::test_trap_17 |
| 18 | dropout left on in evaluation, or off in training | \
traps/test_training.py::test_trap_18 | traps/test_training.py::test_trap_18 |
| 19 | weight decay on biases and norms | traps/test_training.py::test_trap_19 | \
traps/test_training.py::test_trap_19 |
| 20 | duplicates across splits | test_corpora.py::\
test_near_duplicates_never_straddle_splits | test_corpora.py::\
test_near_duplicates_never_straddle_splits |
| 21 | label order from the data's first appearance | test_corpora.py::\
test_the_order_of_rows_changes_neither_labels_nor_splits | test_corpora.py::\
test_labels_by_first_appearance_would_be_permuted |
| 22 | new vocabulary rows at random scale | traps/test_parts.py::test_trap_22 | \
traps/test_parts.py::test_trap_22 |
| 23 | -1 clamped to position 0 in span losses | traps/test_parts.py::test_trap_23 | \
traps/test_parts.py::test_trap_23 |
| 24 | comparing on one seed | traps/test_training.py::test_trap_24 | \
traps/test_training.py::test_trap_24 |
"""
