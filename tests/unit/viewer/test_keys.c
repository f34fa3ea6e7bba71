/*
 * test_keys.c - the key table: one meaning a key, and a help that tells all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "keys.h"

static void
no_key_has_two_meanings(void **state)
{
#define NO_COLUMN()
#define NO_TEXT(text)
#define CODE(name, code, shown) code,
    static const int codes[] = {LG_KEYS(NO_COLUMN, NO_TEXT, NO_TEXT, CODE)};
    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        for (size_t k = 0; k < i; k++) {
            assert_int_not_equal(codes[i], codes[k]);
        }
    }
}

static void
every_action_has_a_key(void **state)
{
#define ACT(name, code, shown) [LG_ACT_##name] = 1,
#define NAME(name) LG_ACT_##name,
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
#ifdef __clang__
#pragma clang diagnostic ignored "-Winitializer-overrides"
#endif
    static const char bound[] = {LG_KEYS(NO_COLUMN, NO_TEXT, NO_TEXT, ACT)};
#pragma GCC diagnostic pop
    static const enum lg_act actions[] = {LG_ACTIONS(NAME)};
    (void)state;
    for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
        assert_true((size_t)actions[i] < sizeof(bound) && bound[actions[i]] == 1);
    }
}

static void
help_shows_keys_in_their_place(void **state)
{
    struct lg_help_row rows[LG_HELP_ROWS];
    size_t count = lg_keys_help(rows);
    (void)state;
    assert_true(count < LG_HELP_ROWS);
    assert_string_equal(rows[0].title, "MOVE");
    assert_string_equal(rows[1].keys, "k j Up Down");
    assert_string_equal(rows[1].text, "row up, down");
    for (size_t i = 0; i < count; i++) {
        /* The page has 15 columns for keys and 23 for words. */
        assert_true(strlen(rows[i].keys) < 15);
        assert_true(strlen(rows[i].text) <= 23);
        assert_true(rows[i].title != NULL || rows[i].keys[0] != '\0');
    }
}

static void
unbound_key_is_named(void **state)
{
    char name[16];
    (void)state;
    assert_int_equal(lg_keys_action('X'), LG_ACT_NONE);
    assert_string_equal(lg_keys_name('X', name, sizeof(name)), "X");
    assert_string_equal(lg_keys_name(LG_CTRL('K'), name, sizeof(name)), "^K");
    assert_string_equal(lg_keys_name(LG_KEY_F1 + 4, name, sizeof(name)), "F5");
    assert_string_equal(lg_keys_name(0xe9, name, sizeof(name)), "\xc3\xa9");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_key_has_two_meanings),
        cmocka_unit_test(every_action_has_a_key),
        cmocka_unit_test(help_shows_keys_in_their_place),
        cmocka_unit_test(unbound_key_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
