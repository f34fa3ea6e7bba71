/* test_lg_error.c - every code has words of its own. */
#include "rig.h"

static const int codes[] = {
#define LG_X(name, number, text) name,
    LG_ERRORS(LG_X)
#undef LG_X
};
#define CODES (sizeof(codes) / sizeof(codes[0]))

static void
own_codes_have_different_words(void **state)
{
    (void)state;
    for (size_t i = 0; i < CODES; i++) {
        assert_true(strlen(lg_strerror(codes[i])) > 0);
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(codes[i], codes[j]);
            assert_string_not_equal(lg_strerror(codes[i]), lg_strerror(codes[j]));
        }
    }
}

static void
own_codes_are_no_errno(void **state)
{
    (void)state;
    for (size_t i = 0; i < CODES; i++) {
        assert_true(codes[i] < -4000);
    }
}

static void
errno_has_the_systems_words(void **state)
{
    (void)state;
    assert_string_equal(lg_strerror(-ENOSPC), strerror(ENOSPC));
    assert_string_equal(lg_strerror(0), "no error");
}

static void
strange_codes_are_still_named(void **state)
{
    (void)state;
    assert_string_equal(lg_strerror(-99999), "error -99999");
    assert_string_equal(lg_strerror(5), "error 5");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_codes_have_different_words),
        cmocka_unit_test(own_codes_are_no_errno),
        cmocka_unit_test(errno_has_the_systems_words),
        cmocka_unit_test(strange_codes_are_still_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
