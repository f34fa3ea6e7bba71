/* test_lg_corruption.c - the saved segment reads as its story says, and with
 * any byte changed it gives an error or a counted fault, never a signal. */
#include "rig.h"

#include "../../fuzz/walk.h"

#define STORY_REQUESTS 200              /* as in make_segment.c */

struct rig {
    uint8_t *bytes;
    size_t size;
    struct walk walk;
};

static int
make_rig(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    char path[RIG_PATH];
    struct stat st;
    const char *data = getenv("LG_TEST_DATA");
    assert_non_null(rig);
    assert_non_null(data);
    snprintf(path, sizeof(path), "%s/segment-%d.%d.lg", data, LG_ABI_MAJOR, LG_ABI_MINOR);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    rig->size = (size_t)st.st_size;
    rig->bytes = aligned_alloc(64, rig->size);
    assert_non_null(rig->bytes);
    assert_int_equal(read(fd, rig->bytes, rig->size), rig->size);
    close(fd);
    *state = rig;
    return 0;
}

static int
drop_rig(void **state)
{
    struct rig *rig = *state;
    free(rig->bytes);
    free(rig);
    return 0;
}

static void
saved_segment_is_read_whole(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(walk_segment(&rig->walk, rig->bytes, rig->size), 0);
    assert_int_equal(rig->walk.requests, STORY_REQUESTS);
    assert_int_equal(rig->walk.stalls, 5);
    /* requests; start and loop added, 4 ends of blocks; 5 begins */
    assert_int_equal(rig->walk.records, STORY_REQUESTS + 6 + 5);
    assert_int_equal(rig->walk.torn, 1);        /* the record that death interrupted */
    assert_int_equal(rig->walk.bad_ids + rig->walk.bad_rings + rig->walk.bad_links, 0);
    assert_string_equal(rig->walk.geo.proc.app, "uvicorn shop:app");
    assert_int_equal(rig->walk.geo.skipped_sections + rig->walk.geo.cut_sections, 0);
}

static void
parts_of_saved_stalls_sum_to_their_duration(void **state)
{
    struct rig *rig = *state;
    struct lg_stall stall;
    assert_int_equal(walk_segment(&rig->walk, rig->bytes, rig->size), 0);
    for (uint64_t i = 0; i < 5; i++) {
        uint64_t sum_ns = 0;
        assert_true(walk_take(&rig->walk, LG_SEC_STALLS, i, &stall, sizeof(stall)));
        for (int cause = 0; cause < LG_CAUSE_COUNT; cause++) {
            sum_ns += stall.parts_ns[cause];
        }
        assert_int_equal(sum_ns, stall.duration_ns);
    }
}

static void
changed_bytes_give_an_error_or_a_count(void **state)
{
    struct rig *rig = *state;
    uint64_t random = 2026;
    int refused = 0;
    for (int round = 0; round < 4000; round++) {
        /* Half of the changes where numbers are dense: page, heads, tables. */
        size_t reach = round % 2 == 0 ? 16384 : rig->size;
        size_t at = rig_random(&random) % reach;
        uint8_t before = rig->bytes[at];
        rig->bytes[at] = (uint8_t)(rig_random(&random) >> 40);
        refused += walk_segment(&rig->walk, rig->bytes, rig->size) != 0;
        rig->bytes[at] = before;
    }
    assert_true(refused > 0 && refused < 4000);
}

static void
file_cut_anywhere_gives_an_error_or_a_count(void **state)
{
    struct rig *rig = *state;
    uint64_t random = 77;
    for (int round = 0; round < 500; round++) {
        size_t size = rig_random(&random) % rig->size;
        uint8_t *cut = aligned_alloc(64, (size + 63) / 64 * 64 + 64);
        assert_non_null(cut);
        memcpy(cut, rig->bytes, size);
        int err = walk_segment(&rig->walk, cut, size);
        free(cut);
        assert_true(size < LG_HEADER_PAGE ? err != 0 : err == 0);
        assert_true(err != 0 || rig->walk.geo.cut_sections > 0);
    }
}

static void
nonsense_behind_a_sound_header_is_counted(void **state)
{
    struct rig *rig = *state;
    uint64_t random = 5;
    for (int round = 0; round < 20; round++) {
        for (size_t at = LG_HEADER_PAGE; at + 8 <= rig->size; at += 8) {
            uint64_t word = rig_random(&random) >> rig_random(&random) % 64;
            memcpy(rig->bytes + at, &word, sizeof(word));
        }
        assert_int_equal(walk_segment(&rig->walk, rig->bytes, rig->size), 0);
        assert_true(rig->walk.bad_ids > 0);
        assert_true(rig->walk.bad_rings > 0);
    }
}

#define RIGGED(test) cmocka_unit_test_setup_teardown(test, make_rig, drop_rig)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        RIGGED(saved_segment_is_read_whole),
        RIGGED(parts_of_saved_stalls_sum_to_their_duration),
        RIGGED(changed_bytes_give_an_error_or_a_count),
        RIGGED(file_cut_anywhere_gives_an_error_or_a_count),
        RIGGED(nonsense_behind_a_sound_header_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
