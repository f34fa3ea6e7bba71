/*
 * test_lg_layout.c - every shared byte lies where tests/data/layout-1.0.txt
 * says. `test_lg_layout --print` prints that file anew.
 *
 * A difference means: old viewers would read something else. Reserved bytes
 * put to use or a section added raise LG_ABI_MINOR, anything else raises
 * LG_ABI_MAJOR; then print the new file beside the old one.
 */
#include "rig.h"

struct row {
    const char *type;                   /* NULL: a field of the struct above */
    const char *field;
    size_t offset;
    size_t size;
    bool inner;                         /* lies within the field before it */
};

/* clang-format off */
#define STRUCT(type) {#type, NULL, 0, sizeof(struct type), false}
#define FIELD(type, field) \
    {NULL, #field, offsetof(struct type, field), sizeof(((struct type *)NULL)->field), false}
#define INNER(type, field) \
    {NULL, #field, offsetof(struct type, field), sizeof(((struct type *)NULL)->field), true}

static const struct row rows[] = {
    STRUCT(lg_header),
    FIELD(lg_header, magic), FIELD(lg_header, endian_tag), FIELD(lg_header, abi_major),
    FIELD(lg_header, abi_minor), FIELD(lg_header, header_size), FIELD(lg_header, section_count),
    FIELD(lg_header, segment_size), FIELD(lg_header, incompatible_flags),
    FIELD(lg_header, compatible_flags), FIELD(lg_header, nonce), FIELD(lg_header, crc32c),
    FIELD(lg_header, state),
    STRUCT(lg_section),
    FIELD(lg_section, kind), FIELD(lg_section, version), FIELD(lg_section, flags),
    FIELD(lg_section, offset), FIELD(lg_section, length), FIELD(lg_section, stride),
    FIELD(lg_section, count), FIELD(lg_section, reserved),
    STRUCT(lg_proc_info),
    FIELD(lg_proc_info, pid), FIELD(lg_proc_info, ppid), FIELD(lg_proc_info, uid),
    FIELD(lg_proc_info, gid), FIELD(lg_proc_info, start_ticks), FIELD(lg_proc_info, boot_id),
    FIELD(lg_proc_info, ns_pid), FIELD(lg_proc_info, ns_mnt), FIELD(lg_proc_info, ns_time),
    FIELD(lg_proc_info, pointer_size), FIELD(lg_proc_info, free_threaded),
    FIELD(lg_proc_info, python_version_hex), FIELD(lg_proc_info, worker_slot),
    FIELD(lg_proc_info, clock_ticks_per_s), FIELD(lg_proc_info, start_mono_ns),
    FIELD(lg_proc_info, start_real_ns), FIELD(lg_proc_info, start_boot_ns),
    FIELD(lg_proc_info, start_uncertainty_ns), FIELD(lg_proc_info, agent_version),
    FIELD(lg_proc_info, app), FIELD(lg_proc_info, server), FIELD(lg_proc_info, off_reason),
    FIELD(lg_proc_info, exe), FIELD(lg_proc_info, argv), FIELD(lg_proc_info, cwd),
    FIELD(lg_proc_info, prefix), FIELD(lg_proc_info, reserved),
    STRUCT(lg_config_info),
    FIELD(lg_config_info, threshold_ns), FIELD(lg_config_info, iteration_threshold_ns),
    FIELD(lg_config_info, cumulative_threshold_ns), FIELD(lg_config_info, cumulative_window_ns),
    FIELD(lg_config_info, cumulative_min_step_ns), FIELD(lg_config_info, watchdog_interval_ns),
    FIELD(lg_config_info, stack_depth), FIELD(lg_config_info, max_endpoints),
    FIELD(lg_config_info, keep_segment), FIELD(lg_config_info, segment_mode),
    FIELD(lg_config_info, hooks), FIELD(lg_config_info, task_factory),
    FIELD(lg_config_info, adaptive), FIELD(lg_config_info, reserved0),
    FIELD(lg_config_info, reserved),
    STRUCT(lg_anchor),
    FIELD(lg_anchor, seq), FIELD(lg_anchor, mono_ns), FIELD(lg_anchor, real_ns),
    FIELD(lg_anchor, boot_ns), FIELD(lg_anchor, uncertainty_ns), FIELD(lg_anchor, clock_steps),
    FIELD(lg_anchor, reserved),
    STRUCT(lg_self),
#define LG_X(name, what) FIELD(lg_self, name),
    LG_SELF_COUNTERS(LG_X)
#undef LG_X
    FIELD(lg_self, reserved),
    STRUCT(lg_feature),
    FIELD(lg_feature, name), FIELD(lg_feature, state), FIELD(lg_feature, reserved),
    FIELD(lg_feature, reason),
    STRUCT(lg_tables),
    FIELD(lg_tables, strings_used), FIELD(lg_tables, endpoints_used),
    FIELD(lg_tables, stacks_used), FIELD(lg_tables, frames_used), FIELD(lg_tables, stalls_head),
    FIELD(lg_tables, loops_used), FIELD(lg_tables, reserved),
    STRUCT(lg_endpoint),
    FIELD(lg_endpoint, key), FIELD(lg_endpoint, in_flight_threshold_us),
    FIELD(lg_endpoint, requests), FIELD(lg_endpoint, status_2xx), FIELD(lg_endpoint, status_3xx),
    FIELD(lg_endpoint, status_4xx), FIELD(lg_endpoint, status_5xx),
    FIELD(lg_endpoint, exceptions), FIELD(lg_endpoint, cancelled), FIELD(lg_endpoint, steps),
    FIELD(lg_endpoint, response_sum_ns), FIELD(lg_endpoint, response_max_ns),
    FIELD(lg_endpoint, on_loop_sum_ns), FIELD(lg_endpoint, step_max_ns),
    FIELD(lg_endpoint, cpu_ns), FIELD(lg_endpoint, blocked_ns), FIELD(lg_endpoint, blocks),
    FIELD(lg_endpoint, blocked_by_cause_ns), FIELD(lg_endpoint, cumulative_waited),
    FIELD(lg_endpoint, pool_wait_ns), FIELD(lg_endpoint, pool_run_ns),
    FIELD(lg_endpoint, waited_ns), FIELD(lg_endpoint, first_seen_ns),
    FIELD(lg_endpoint, last_seen_ns),
    STRUCT(lg_hist),
    FIELD(lg_hist, bucket),
    STRUCT(lg_loop_entry),
    FIELD(lg_loop_entry, seq), FIELD(lg_loop_entry, state), FIELD(lg_loop_entry, step),
    FIELD(lg_loop_entry, step_start_ns), FIELD(lg_loop_entry, endpoint_task),
    FIELD(lg_loop_entry, request_tid), FIELD(lg_loop_entry, reserved_a),
    FIELD(lg_loop_entry, iterations), FIELD(lg_loop_entry, steps),
    FIELD(lg_loop_entry, awake_since_ns), FIELD(lg_loop_entry, poll_since_ns),
    FIELD(lg_loop_entry, last_lag_ns), FIELD(lg_loop_entry, max_lag_ns),
    FIELD(lg_loop_entry, max_lag_at_ns), FIELD(lg_loop_entry, sum_lag_ns),
    FIELD(lg_loop_entry, heartbeat_ns), FIELD(lg_loop_entry, stall_ticket),
    FIELD(lg_loop_entry, stall_since_ns), FIELD(lg_loop_entry, stall_step),
    FIELD(lg_loop_entry, samples), FIELD(lg_loop_entry, cpu_now_ns),
    FIELD(lg_loop_entry, reserved_c), FIELD(lg_loop_entry, tasks),
    FIELD(lg_loop_entry, open_requests), FIELD(lg_loop_entry, threshold_ns),
    FIELD(lg_loop_entry, ready_length), FIELD(lg_loop_entry, blocked_ns),
    FIELD(lg_loop_entry, blocks), FIELD(lg_loop_entry, requests),
    FIELD(lg_loop_entry, cumulative_events), FIELD(lg_loop_entry, parts_ns),
    FIELD(lg_loop_entry, gc_pauses), FIELD(lg_loop_entry, created_ns),
    FIELD(lg_loop_entry, closed_ns), FIELD(lg_loop_entry, kind_thread_name),
    FIELD(lg_loop_entry, throttled), FIELD(lg_loop_entry, reserved),
    STRUCT(lg_cell),
    FIELD(lg_cell, second_requests), FIELD(lg_cell, steps_busy_us),
    FIELD(lg_cell, blocked_us_blocks), FIELD(lg_cell, max_step_us_waited),
    STRUCT(lg_loop_cell),
    FIELD(lg_loop_cell, second_iterations), FIELD(lg_loop_cell, busy_us_max_lag_us),
    FIELD(lg_loop_cell, blocked_us_blocks), FIELD(lg_loop_cell, requests_open),
    FIELD(lg_loop_cell, cpu_us_gil_us), FIELD(lg_loop_cell, io_us_gc_us),
    FIELD(lg_loop_cell, reserved),
    STRUCT(lg_stall),
    FIELD(lg_stall, seq), FIELD(lg_stall, ticket), FIELD(lg_stall, info), FIELD(lg_stall, step),
    FIELD(lg_stall, start_ns), FIELD(lg_stall, duration_ns), FIELD(lg_stall, threshold_ns),
    FIELD(lg_stall, endpoint_holder), FIELD(lg_stall, request_task), FIELD(lg_stall, parts_ns),
    FIELD(lg_stall, call_thread), FIELD(lg_stall, stack_holder_stack),
    FIELD(lg_stall, samples_tid), FIELD(lg_stall, waiting_open), FIELD(lg_stall, waited_requests),
    FIELD(lg_stall, waited_longest_ns), FIELD(lg_stall, waited_sum_ns), FIELD(lg_stall, waited),
    FIELD(lg_stall, call_ns), FIELD(lg_stall, major_faults), FIELD(lg_stall, steps),
    FIELD(lg_stall, reserved),
    INNER(lg_stall, waited[0].endpoint_count), INNER(lg_stall, waited[0].ns),
    STRUCT(lg_pool),
    FIELD(lg_pool, limit), FIELD(lg_pool, busy), FIELD(lg_pool, waiting),
    FIELD(lg_pool, high_water), FIELD(lg_pool, times_full), FIELD(lg_pool, submitted),
    FIELD(lg_pool, finished), FIELD(lg_pool, wait_sum_ns), FIELD(lg_pool, wait_max_ns),
    FIELD(lg_pool, run_sum_ns), FIELD(lg_pool, run_max_ns), FIELD(lg_pool, waiting_high_water),
    FIELD(lg_pool, full_since_ns), FIELD(lg_pool, reserved), FIELD(lg_pool, stuck),
    FIELD(lg_pool, reserved2),
    INNER(lg_pool, stuck[0].tid_endpoint), INNER(lg_pool, stuck[0].since_ns), INNER(lg_pool, stuck[0].stack), INNER(lg_pool, stuck[0].reserved),
    STRUCT(lg_ring),
    FIELD(lg_ring, head), FIELD(lg_ring, first), FIELD(lg_ring, capacity),
    FIELD(lg_ring, first_slot), FIELD(lg_ring, ring_class), FIELD(lg_ring, writer),
    FIELD(lg_ring, reserved),
    STRUCT(lg_slot),
    FIELD(lg_slot, seq), FIELD(lg_slot, time_ns), FIELD(lg_slot, tag), FIELD(lg_slot, p),
    STRUCT(lg_writer),
    FIELD(lg_writer, role_tid), FIELD(lg_writer, rings), FIELD(lg_writer, name),
    FIELD(lg_writer, reserved),
    STRUCT(lg_stack),
    FIELD(lg_stack, hash), FIELD(lg_stack, first_ns), FIELD(lg_stack, last_ns),
    FIELD(lg_stack, count), FIELD(lg_stack, total_ns), FIELD(lg_stack, max_ns),
    FIELD(lg_stack, frame_depth), FIELD(lg_stack, endpoint_flags),
    STRUCT(lg_frame),
    FIELD(lg_frame, file), FIELD(lg_frame, function), FIELD(lg_frame, line),
    FIELD(lg_frame, next),
};
/* clang-format on */
#define ROWS (sizeof(rows) / sizeof(rows[0]))

/* What else is contract: numbers that stand in the bytes. */
static void
print_numbers(FILE *out)
{
#define LG_X(name, number, type, count, what) \
    fprintf(out, "section %d %s of %zu\n", number, #name, sizeof(type));
    LG_SECTIONS(LG_X)
#undef LG_X
#define LG_X(name, number, text) fprintf(out, "record %d %s\n", number, text);
    LG_RECORDS(LG_X)
#undef LG_X
#define LG_X(name, number, text) fprintf(out, "endpoint kind %d %s\n", number, text);
    LG_ENDPOINT_KINDS(LG_X)
#undef LG_X
#define LG_X(name, number, text) fprintf(out, "method %d %s\n", number, text);
    LG_METHODS(LG_X)
#undef LG_X
#define LG_X(name, number, text) fprintf(out, "cause %d %s\n", number, text);
    LG_CAUSES(LG_X)
#undef LG_X
#define LG_X(name, number, text) fprintf(out, "stall kind %d %s\n", number, text);
    LG_STALL_KINDS(LG_X)
#undef LG_X
}

static void
print_layout(FILE *out)
{
    fprintf(out, "layout %d.%d\n", LG_ABI_MAJOR, LG_ABI_MINOR);
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].type != NULL) {
            fprintf(out, "\nstruct %s %zu\n", rows[i].type, rows[i].size);
        }
        else {
            fprintf(out, "%8zu %6zu  %s%s\n", rows[i].offset, rows[i].size,
                    rows[i].inner ? "  " : "", rows[i].field);
        }
    }
    fprintf(out, "\n");
    print_numbers(out);
}

static void
layout_is_the_golden_one(void **state)
{
    char path[RIG_PATH];
    char golden[32768] = "";
    char *present = NULL;
    size_t size = 0;
    const char *data = getenv("LG_TEST_DATA");
    (void)state;
    assert_non_null(data);
    snprintf(path, sizeof(path), "%s/layout-%d.%d.txt", data, LG_ABI_MAJOR, LG_ABI_MINOR);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_true(fread(golden, 1, sizeof(golden) - 1, file) > 0);
    fclose(file);
    FILE *out = open_memstream(&present, &size);
    assert_non_null(out);
    print_layout(out);
    fclose(out);
    if (strcmp(present, golden) != 0) {
        print_message("%s differs: raise LG_ABI_MINOR or LG_ABI_MAJOR\n%s", path, present);
    }
    assert_string_equal(present, golden);
    free(present);
}

/* A field that the table above leaves out, or hidden padding, is a gap. */
static void
listed_fields_cover_every_byte(void **state)
{
    const struct row *type = &rows[0];
    size_t next = rows[0].size;
    (void)state;
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].type != NULL) {
            assert_int_equal(next, type->size);
            type = &rows[i];
            next = 0;
        }
        else if (!rows[i].inner) {
            if (rows[i].offset != next) {
                fail_msg("gap before %s.%s", type->type, rows[i].field);
            }
            next += rows[i].size;
        }
    }
    assert_int_equal(next, type->size);
}

static void
elements_keep_words_aligned(void **state)
{
    (void)state;
#define LG_X(name, number, type, count, what) \
    assert_true(number == LG_SEC_STRINGS || sizeof(type) % 8 == 0); \
    assert_true(number < LG_MAX_SECTIONS);
    LG_SECTIONS(LG_X)
#undef LG_X
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout_is_the_golden_one),
        cmocka_unit_test(listed_fields_cover_every_byte),
        cmocka_unit_test(elements_keep_words_aligned),
    };
    if (argc > 1 && strcmp(argv[1], "--print") == 0) {
        print_layout(stdout);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
