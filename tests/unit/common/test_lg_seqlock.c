/* test_lg_seqlock.c - whole pictures or a clear "torn", never a mixture. */
#include "rig.h"

#include <pthread.h>

#include "lg_seqlock.h"

#define WORDS 8
#define WRITES 200000

static void
write_all(uint64_t *words, uint64_t value)
{
    lg_seq_begin(&words[0]);
    for (int i = 1; i < WORDS; i++) {
        lg_store_relaxed(&words[i], value);
    }
    lg_seq_end(&words[0]);
}

static void
finished_write_is_read_whole(void **state)
{
    uint64_t shared[WORDS] = {0};
    uint64_t copy[WORDS];
    (void)state;
    write_all(shared, 7);
    assert_true(lg_seq_read(shared, copy, WORDS, 1));
    assert_int_equal(copy[0], 2);
    assert_int_equal(copy[1], 7);
    assert_int_equal(copy[WORDS - 1], 7);
}

static void
writer_that_died_inside_leaves_words_marked_torn(void **state)
{
    uint64_t shared[WORDS] = {0};
    uint64_t copy[WORDS] = {0};
    (void)state;
    write_all(shared, 7);
    lg_seq_begin(&shared[0]);
    lg_store_relaxed(&shared[1], 8);
    assert_false(lg_seq_read(shared, copy, WORDS, 100));
    assert_int_equal(copy[0], 3);
    assert_int_equal(copy[1], 8);
    assert_int_equal(copy[2], 7);
}

static void *
keep_writing(void *arg)
{
    for (uint64_t i = 1; i <= WRITES; i++) {
        write_all(arg, i);
    }
    return NULL;
}

static void
reader_beside_a_writer_sees_no_mixture(void **state)
{
    uint64_t shared[WORDS] = {0};
    uint64_t copy[WORDS] = {0};
    pthread_t writer;
    (void)state;
    assert_int_equal(pthread_create(&writer, NULL, keep_writing, shared), 0);
    while (copy[1] < WRITES) {
        if (!lg_seq_read(shared, copy, WORDS, 1)) {
            copy[1] = 0;
            continue;
        }
        for (int i = 2; i < WORDS; i++) {
            assert_int_equal(copy[i], copy[1]);
        }
        assert_int_equal(copy[0], 2 * copy[1]);
    }
    assert_int_equal(pthread_join(writer, NULL), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finished_write_is_read_whole),
        cmocka_unit_test(writer_that_died_inside_leaves_words_marked_torn),
        cmocka_unit_test(reader_beside_a_writer_sees_no_mixture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
