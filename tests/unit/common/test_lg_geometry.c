/* test_lg_geometry.c - a header page is believed only where every number holds. */
#include "rig.h"

#include <stdbool.h>

struct rig {
    struct rig_dir dir;
    uint8_t *bytes;                     /* a whole segment */
    size_t size;
    struct lg_header *header;           /* in bytes, as is the next */
    struct lg_section *table;
    struct lg_geometry geo;
    struct lg_fault fault;
};

static int
make_rig(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    rig_dir_make(&rig->dir);
    struct lg_segment seg = rig_segment(&rig->dir, 0);
    rig->bytes = rig_bytes(&seg);
    rig->size = seg.size;
    rig->header = (struct lg_header *)rig->bytes;
    rig->table = (struct lg_section *)(rig->bytes + sizeof(struct lg_header));
    lg_segment_close(&seg, false);
    rig_dir_remove(&rig->dir);
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

static int
check_cut(struct rig *rig, uint64_t file_size)
{
    size_t page_size = file_size < LG_HEADER_PAGE ? (size_t)file_size : LG_HEADER_PAGE;
    return lg_geometry_check(rig->bytes, page_size, file_size, &rig->geo, &rig->fault);
}

static int
check(struct rig *rig)
{
    return check_cut(rig, rig->size);
}

static int
check_sealed(struct rig *rig)
{
    rig_seal(rig->bytes);
    return check(rig);
}

static struct lg_section *
section_of(struct rig *rig, uint32_t kind)
{
    for (uint32_t i = 0; i < rig->header->section_count; i++) {
        if (rig->table[i].kind == kind) {
            return &rig->table[i];
        }
    }
    fail();
    return NULL;
}

/* Whatever the bytes were: what is handed out lies inside the file. */
static void
assert_inside(const struct lg_geometry *geo, uint64_t file_size)
{
    for (uint32_t kind = 0; kind < LG_MAX_SECTIONS; kind++) {
        const struct lg_extent *x = &geo->section[kind];
        assert_true(x->length == 0 || lg_range_ok(x->offset, x->length, 1, file_size));
        assert_true(lg_range_ok(0, x->count, x->stride, x->length));
        assert_true(x->known <= x->stride);
        assert_true(x->count == 0 || x->stride > 0);
    }
}

static void
whole_segment_is_taken_with_all_sections(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(check(rig), 0);
    assert_inside(&rig->geo, rig->size);
#define LG_X(name, number, type, standard, what) \
    assert_true(rig->geo.section[number].count > 0); \
    assert_int_equal(rig->geo.section[number].known, sizeof(type));
    LG_SECTIONS(LG_X)
#undef LG_X
    assert_int_equal(rig->geo.cut_sections, 0);
}

static void
every_prefix_of_the_page_has_its_name(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(check_cut(rig, 0), LG_EEMPTY);
    for (uint64_t size = 1; size < LG_HEADER_PAGE; size++) {
        assert_int_equal(check_cut(rig, size), LG_ETRUNCATED);
    }
    assert_int_equal(check_cut(rig, LG_HEADER_PAGE), 0);
}

static void
segment_in_the_making_is_empty(void **state)
{
    struct rig *rig = *state;
    rig->header->magic = 0;                     /* all the rest is written */
    assert_int_equal(check(rig), LG_EEMPTY);
    memset(rig->bytes, 0, LG_HEADER_PAGE);
    assert_int_equal(check_cut(rig, 5), LG_EEMPTY);
    assert_int_equal(check(rig), LG_EEMPTY);
}

static void
other_files_are_not_segments(void **state)
{
    struct rig *rig = *state;
    memcpy(rig->bytes, "#!/bin/sh", 9);
    assert_int_equal(check(rig), LG_EFORMAT);
    assert_int_equal(check_cut(rig, 3), LG_EFORMAT);
}

static void
truncation_at_each_section_edge_cuts_that_section_and_the_later_ones(void **state)
{
    struct rig *rig = *state;
    for (uint32_t i = 2; i < rig->header->section_count; i++) {
        const struct lg_section *section = &rig->table[i];
        uint32_t later = rig->header->section_count - i - 1;
        for (int64_t shift = -8; shift <= 8; shift += 8) {
            uint64_t size = section->offset + section->length + (uint64_t)shift;
            assert_int_equal(check_cut(rig, size), 0);
            assert_inside(&rig->geo, size);
            assert_int_equal(rig->geo.cut_sections, later + (shift < 0));
        }
        const struct lg_extent *x = &rig->geo.section[section->kind];
        assert_int_equal(check_cut(rig, section->offset + section->stride - 1), 0);
        assert_int_equal(x->count, 0);
        assert_int_equal(check_cut(rig, section->offset), 0);
        assert_int_equal(x->length, 0);
    }
}

static void
flipped_byte_behind_the_header_is_always_noticed(void **state)
{
    struct rig *rig = *state;
    for (size_t at = sizeof(struct lg_header); at < LG_HEADER_PAGE; at++) {
        for (int bit = 0; bit < 8; bit += 7) {
            rig->bytes[at] ^= (uint8_t)(1 << bit);
            assert_int_equal(check(rig), LG_ECORRUPT);
            assert_int_equal(rig->fault.offset, offsetof(struct lg_header, crc32c));
            rig->bytes[at] ^= (uint8_t)(1 << bit);
        }
    }
}

static void
flipped_byte_of_the_header_is_named_or_harmless(void **state)
{
    struct rig *rig = *state;
    for (size_t at = 0; at < sizeof(struct lg_header); at++) {
        for (int value = 1; value < 256; value++) {
            rig->bytes[at] ^= (uint8_t)value;
            int err = check(rig);
            rig->bytes[at] ^= (uint8_t)value;
            if (at < 8) {
                assert_int_equal(err, LG_EFORMAT);
            }
            else if (at < 12 || (at >= 56 && at < 60)) {
                assert_int_equal(err, LG_ECORRUPT);
            }
            else if (at < 14 || (at >= 32 && at < 40)) {
                assert_int_equal(err, LG_EVERSION);
            }
            else if (err == 0) {                /* outside the checksum */
                assert_inside(&rig->geo, rig->size);
            }
        }
    }
}

static void
other_byte_order_is_refused_by_name(void **state)
{
    struct rig *rig = *state;
    rig->header->endian_tag = UINT32_C(0x04030201);
    assert_int_equal(check_sealed(rig), LG_EENDIAN);
}

static void
other_major_is_refused_and_both_versions_are_known(void **state)
{
    struct rig *rig = *state;
    rig->header->abi_major = LG_ABI_MAJOR + 1;
    rig->header->abi_minor = 3;
    assert_int_equal(check_cut(rig, sizeof(struct lg_header)), LG_EVERSION);
    assert_int_equal(rig->geo.header.abi_major, LG_ABI_MAJOR + 1);
    assert_int_equal(rig->geo.header.abi_minor, 3);
}

static void
unknown_incompatible_flag_is_refused_and_a_compatible_one_is_not(void **state)
{
    struct rig *rig = *state;
    rig->header->compatible_flags = UINT64_C(1) << 63;
    assert_int_equal(check_sealed(rig), 0);
    rig->header->incompatible_flags = 1;
    assert_int_equal(check_sealed(rig), LG_EVERSION);
}

static void
newer_minor_with_an_unknown_section_is_read_and_the_section_counted(void **state)
{
    struct rig *rig = *state;
    rig->header->abi_minor = LG_ABI_MINOR + 1;
    section_of(rig, LG_SEC_POOL)->kind = 27;
    section_of(rig, LG_SEC_STALLS)->version = 2;
    assert_int_equal(check_sealed(rig), 0);
    assert_int_equal(rig->geo.skipped_sections, 2);
    assert_int_equal(rig->geo.section[LG_SEC_POOL].count, 0);
    assert_int_equal(rig->geo.section[LG_SEC_STALLS].count, 0);
}

static void
larger_element_is_used_as_far_as_it_is_known(void **state)
{
    struct rig *rig = *state;
    struct lg_section *loops = section_of(rig, LG_SEC_LOOPS);
    loops->stride *= 2;
    loops->count /= 2;
    assert_int_equal(check_sealed(rig), 0);
    assert_int_equal(rig->geo.section[LG_SEC_LOOPS].stride, 2 * sizeof(struct lg_loop_entry));
    assert_int_equal(rig->geo.section[LG_SEC_LOOPS].known, sizeof(struct lg_loop_entry));
    assert_int_equal(rig->geo.section[LG_SEC_LOOPS].count, 4);
}

static void
smaller_element_is_used_as_far_as_it_goes(void **state)
{
    struct rig *rig = *state;
    struct lg_section *proc = section_of(rig, LG_SEC_PROC);
    proc->stride = 144;                         /* ends before the names */
    assert_int_equal(check_sealed(rig), 0);
    assert_int_equal(rig->geo.section[LG_SEC_PROC].known, 144);
    assert_int_equal(rig->geo.proc.pid, getpid());
    assert_string_equal(rig->geo.proc.exe, "");
}

static void
unterminated_texts_end(void **state)
{
    struct rig *rig = *state;
    struct lg_proc_info *proc =
        (struct lg_proc_info *)(rig->bytes + section_of(rig, LG_SEC_PROC)->offset);
    memset(proc->app, 'A', sizeof(proc->app));
    memset(proc->prefix, 'P', sizeof(proc->prefix));
    assert_int_equal(check_sealed(rig), 0);
    assert_int_equal(strlen(rig->geo.proc.app), sizeof(proc->app) - 1);
    assert_int_equal(strlen(rig->geo.proc.prefix), sizeof(proc->prefix) - 1);
}

/* One wrong number in the section table. */
struct wrong {
    const char *what;
    uint32_t kind;
    void (*spoil)(struct lg_section *section);
};

/* clang-format off */
static void odd_offset(struct lg_section *s) { s->offset += 8; }
static void offset_in_header(struct lg_section *s) { s->offset = 64; }
static void offset_outside(struct lg_section *s) { s->offset = UINT64_C(1) << 40; }
static void offset_that_wraps(struct lg_section *s) { s->offset = UINT64_MAX - 63; }
static void length_outside(struct lg_section *s) { s->length = UINT64_C(1) << 40; }
static void length_that_wraps(struct lg_section *s) { s->length = UINT64_MAX - 7; }
static void odd_length(struct lg_section *s) { s->length -= 1; }
static void short_length(struct lg_section *s) { s->length -= 8; }
static void count_that_wraps(struct lg_section *s) { s->count = UINT32_MAX; }
static void no_stride(struct lg_section *s) { s->stride = 0; }
static void odd_stride(struct lg_section *s) { s->stride -= 4; }
static void wide_string(struct lg_section *s) { s->stride = 2; s->count /= 2; }
static void overlap(struct lg_section *s) { s->offset -= 64; }
static void same_kind_twice(struct lg_section *s) { s->kind = LG_SEC_SELF; }
static void no_process(struct lg_section *s) { s->kind = 29; }
/* clang-format on */

static void
wrong_number_of_a_section_is_damage(void **state)
{
    static const struct wrong wrongs[] = {
        {"odd offset", LG_SEC_STACKS, odd_offset},
        {"offset in header", LG_SEC_STACKS, offset_in_header},
        {"offset outside", LG_SEC_STACKS, offset_outside},
        {"offset that wraps", LG_SEC_STACKS, offset_that_wraps},
        {"length outside", LG_SEC_STACKS, length_outside},
        {"length that wraps", LG_SEC_STACKS, length_that_wraps},
        {"odd length", LG_SEC_STRINGS, odd_length},
        {"short length", LG_SEC_STACKS, short_length},
        {"count that wraps", LG_SEC_HISTS, count_that_wraps},
        {"no stride", LG_SEC_STACKS, no_stride},
        {"odd stride", LG_SEC_STACKS, odd_stride},
        {"wide string", LG_SEC_STRINGS, wide_string},
        {"overlap", LG_SEC_STACKS, overlap},
        {"same kind twice", LG_SEC_STACKS, same_kind_twice},
        {"no PROC", LG_SEC_PROC, no_process},
        {"no CONFIG", LG_SEC_CONFIG, no_process},
    };
    struct rig *rig = *state;
    uint8_t page[LG_HEADER_PAGE];
    memcpy(page, rig->bytes, sizeof(page));
    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        memcpy(rig->bytes, page, sizeof(page));
        wrongs[i].spoil(section_of(rig, wrongs[i].kind));
        memset(&rig->fault, 0, sizeof(rig->fault));
        int err = check_sealed(rig);
        if (err != LG_ECORRUPT || rig->fault.what[0] == '\0' || rig->fault.offset == 0) {
            fail_msg("%s: %s", wrongs[i].what, lg_strerror(err));
        }
    }
}

static void
process_facts_outside_the_page_are_damage(void **state)
{
    struct rig *rig = *state;
    struct lg_section *proc = section_of(rig, LG_SEC_PROC);
    struct lg_section *stalls = section_of(rig, LG_SEC_STALLS);
    proc->offset = stalls->offset;
    proc->length = stalls->length;
    stalls->length = 0;
    stalls->count = 0;
    assert_int_equal(check_sealed(rig), LG_ECORRUPT);
}

static void
wrong_number_of_the_header_is_damage(void **state)
{
    struct rig *rig = *state;
    struct lg_header good = *rig->header;
    rig->header->section_count = 33;
    assert_int_equal(check_sealed(rig), LG_ECORRUPT);
    *rig->header = good;
    rig->header->header_size = 64 + 64;         /* shorter than its table */
    assert_int_equal(check_sealed(rig), LG_ECORRUPT);
    *rig->header = good;
    rig->header->segment_size = LG_MAX_SEGMENT_BYTES + 1;
    assert_int_equal(check_sealed(rig), LG_ECORRUPT);
    *rig->header = good;
    rig->header->state = LG_STATE_OFF + 1;
    assert_int_equal(check_sealed(rig), LG_ECORRUPT);
    assert_int_equal(rig->fault.offset, offsetof(struct lg_header, state));
}

static void
result_is_untouched_on_failure(void **state)
{
    struct rig *rig = *state;
    struct lg_geometry before;
    memset(&rig->geo, 0x5A, sizeof(rig->geo));
    before = rig->geo;
    rig->bytes[2000] ^= 1;
    assert_int_equal(check(rig), LG_ECORRUPT);
    assert_memory_equal(&rig->geo, &before, sizeof(before));
}

static void
random_damage_with_a_right_checksum_never_leads_outside(void **state)
{
    struct rig *rig = *state;
    uint8_t page[LG_HEADER_PAGE];
    uint64_t random = 99;
    int taken = 0;
    memcpy(page, rig->bytes, sizeof(page));
    for (int round = 0; round < 20000; round++) {
        memcpy(rig->bytes, page, sizeof(page));
        for (uint64_t n = rig_random(&random) % 3 + 1; n > 0; n--) {
            size_t at = 16 + rig_random(&random) % (LG_HEADER_SIZE - 16);
            rig->bytes[at] = (uint8_t)(rig_random(&random) >> 32);
        }
        rig_seal(rig->bytes);
        uint64_t size = round % 2 == 0 ? rig->size : rig_random(&random) % rig->size;
        if (check_cut(rig, size) == 0) {
            assert_inside(&rig->geo, size);
            taken++;
        }
    }
    assert_true(taken > 100 && taken < 19900);
}

static void
range_check_does_not_wrap(void **state)
{
    static const struct {
        uint64_t offset, n, stride, size;
        bool ok;
    } cases[] = {
        {0, 0, 0, 0, true},
        {0, 1, 64, 64, true},
        {1, 1, 64, 64, false},
        {64, 0, 64, 64, true},
        {65, 0, 64, 64, false},
        {0, UINT64_MAX, 2, 64, false},
        {UINT64_MAX, 1, 1, 64, false},
        {8, UINT64_C(1) << 61, 8, UINT64_MAX, false},
        {0, UINT64_MAX, 1, UINT64_MAX, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(lg_range_ok(cases[i].offset, cases[i].n, cases[i].stride, cases[i].size),
                         cases[i].ok);
    }
}

#define RIGGED(test) cmocka_unit_test_setup_teardown(test, make_rig, drop_rig)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        RIGGED(whole_segment_is_taken_with_all_sections),
        RIGGED(every_prefix_of_the_page_has_its_name),
        RIGGED(segment_in_the_making_is_empty),
        RIGGED(other_files_are_not_segments),
        RIGGED(truncation_at_each_section_edge_cuts_that_section_and_the_later_ones),
        RIGGED(flipped_byte_behind_the_header_is_always_noticed),
        RIGGED(flipped_byte_of_the_header_is_named_or_harmless),
        RIGGED(other_byte_order_is_refused_by_name),
        RIGGED(other_major_is_refused_and_both_versions_are_known),
        RIGGED(unknown_incompatible_flag_is_refused_and_a_compatible_one_is_not),
        RIGGED(newer_minor_with_an_unknown_section_is_read_and_the_section_counted),
        RIGGED(larger_element_is_used_as_far_as_it_is_known),
        RIGGED(smaller_element_is_used_as_far_as_it_goes),
        RIGGED(unterminated_texts_end),
        RIGGED(wrong_number_of_a_section_is_damage),
        RIGGED(process_facts_outside_the_page_are_damage),
        RIGGED(wrong_number_of_the_header_is_damage),
        RIGGED(result_is_untouched_on_failure),
        RIGGED(random_damage_with_a_right_checksum_never_leads_outside),
        cmocka_unit_test(range_check_does_not_wrap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
