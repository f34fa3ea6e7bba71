/* test_lg_crc32c.c - the checksum against the vectors of RFC 3720, B.4. */
#include "rig.h"

static void
known_vectors_hold(void **state)
{
    uint8_t bytes[32];
    (void)state;
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(lg_crc32c(bytes, 32), 0x8A9136AA);
    memset(bytes, 0xFF, sizeof(bytes));
    assert_int_equal(lg_crc32c(bytes, 32), 0x62A8AB43);
    for (int i = 0; i < 32; i++) {
        bytes[i] = (uint8_t)i;
    }
    assert_int_equal(lg_crc32c(bytes, 32), 0x46DD794E);
    assert_int_equal(lg_crc32c("123456789", 9), 0xE3069283);
    assert_int_equal(lg_crc32c("", 0), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(known_vectors_hold)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
