/*
 * problem.c - the table of words; see problem.h.
 */
#include "problem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../common/lg_error.h"
#include "../common/lg_layout.h"
#include "format.h"

static void foreign_version(struct lg_problem *problem, const uint8_t *page, size_t page_size);
static void foreign_machine(struct lg_problem *problem, const uint8_t *page, size_t page_size);
static void set_text(struct lg_problem *problem, const char *code, int exit_status,
                     const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Where a 1.0 header page has them; other majors most likely, too. */
#define AT_AGENT_VERSION (LG_HEADER_SIZE + offsetof(struct lg_proc_info, agent_version))
#define AT_POINTER_SIZE (LG_HEADER_SIZE + offsetof(struct lg_proc_info, pointer_size))

void
lg_problems_add(struct lg_problems *problems, const struct lg_problem *problem)
{
    if (problems->count == problems->room) {
        size_t room = problems->room != 0 ? 2 * problems->room : 8;
        struct lg_problem *larger = realloc(problems->list, room * sizeof(*larger));
        if (larger == NULL) {
            return;                     /* one message fewer */
        }
        problems->list = larger;
        problems->room = room;
    }
    problems->list[problems->count++] = *problem;
}

void
lg_problems_free(struct lg_problems *problems)
{
    free(problems->list);
    *problems = (struct lg_problems){0};
}

void
lg_problem_print(const char *program, const struct lg_problem *problem)
{
    fprintf(stderr, "%s: %s%s%s\n", program, problem->subject,
            problem->subject[0] != '\0' ? ": " : "", problem->text);
    if (problem->hint[0] != '\0') {
        fprintf(stderr, "%s\n", problem->hint);
    }
}

void
lg_problem_set(struct lg_problem *problem, pid_t pid, const char *subject, const char *code,
               int exit_status, const char *format, ...)
{
    *problem = (struct lg_problem){.pid = pid, .code = code, .exit_status = exit_status};
    /* A file name is what a user typed, or what a directory holds. */
    lg_text_clean(subject, strlen(subject), problem->subject, sizeof(problem->subject));
    va_list args;
    va_start(args, format);
    vsnprintf(problem->text, sizeof(problem->text), format, args);
    va_end(args);
}

void
lg_problem_hint(struct lg_problem *problem, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(problem->hint, sizeof(problem->hint), format, args);
    va_end(args);
}

void
lg_problem_from_code(struct lg_problem *problem, pid_t pid, const char *subject, int code,
                     const uint8_t *page, size_t page_size, const struct lg_fault *fault)
{
    char number[LG_TEXT];
    char whole[LG_TEXT];
    lg_problem_set(problem, pid, subject, "error", LG_EXIT_SEGMENT, "%s", lg_strerror(code));
    switch (code) {
    case LG_EVERSION:
        foreign_version(problem, page, page_size);
        break;
    case LG_EENDIAN:
        foreign_machine(problem, page, page_size);
        break;
    case LG_EFORMAT:
        problem->code = "not_a_segment";
        break;
    case LG_EEMPTY:
        problem->code = "empty";
        break;
    case LG_ETRUNCATED:
        set_text(problem, "cut_short", LG_EXIT_SEGMENT, "cut short: %s of %s bytes",
                 lg_format_count(page_size, number, sizeof(number)),
                 lg_format_count(LG_HEADER_PAGE, whole, sizeof(whole)));
        break;
    case LG_ECORRUPT:
        set_text(problem, "damaged", LG_EXIT_SEGMENT, "damaged at byte %s (%s)",
                 lg_format_count(fault != NULL ? fault->offset : 0, number, sizeof(number)),
                 fault != NULL ? fault->what : "?");
        break;
    case -EACCES:
    case -EPERM:
        set_text(problem, "permission", LG_EXIT_PERMISSION, "permission denied");
        break;
    case -ENOENT:
        problem->code = "no_such_file";
        problem->exit_status = LG_EXIT_NOTHING;
        break;
    case -ENOMEM:
        problem->exit_status = LG_EXIT_ERROR;
        break;
    default:
        break;
    }
}

static void
set_text(struct lg_problem *problem, const char *code, int exit_status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    problem->code = code;
    problem->exit_status = exit_status;
    vsnprintf(problem->text, sizeof(problem->text), format, args);
    va_end(args);
}

/* The first 64 bytes are the same for all versions; the agent's version is
 * taken where 1.0 has it, and only when it looks like one. */
static void
foreign_version(struct lg_problem *problem, const uint8_t *page, size_t page_size)
{
    struct lg_header header = {0};
    char agent[32] = "";
    char reads[48];
    if (page != NULL && page_size >= sizeof(header)) {
        memcpy(&header, page, sizeof(header));
    }
    if (page != NULL && page_size >= AT_AGENT_VERSION + sizeof(agent)) {
        memcpy(agent, page + AT_AGENT_VERSION, sizeof(agent));
        agent[sizeof(agent) - 1] = '\0';
        if (agent[0] < '0' || agent[0] > '9' ||
            agent[strspn(agent, "0123456789.abrcdevpost+")] != '\0') {
            agent[0] = '\0';
        }
    }
    if (LG_ABI_MINOR == 0) {
        snprintf(reads, sizeof(reads), "layout %d.0", LG_ABI_MAJOR);
    }
    else {
        snprintf(reads, sizeof(reads), "layouts %d.0 to %d.%d", LG_ABI_MAJOR, LG_ABI_MAJOR,
                 LG_ABI_MINOR);
    }
    if (header.abi_major == LG_ABI_MAJOR) {
        set_text(problem, "layout", LG_EXIT_SEGMENT,
                 "its agent%s%s writes layout %u.%u with parts that this viewer cannot read",
                 agent[0] != '\0' ? " " : "", agent, header.abi_major, header.abi_minor);
    }
    else {
        set_text(problem, "layout", LG_EXIT_SEGMENT,
                 "its agent%s%s writes layout %u; this viewer reads %s",
                 agent[0] != '\0' ? " " : "", agent, header.abi_major, reads);
    }
    lg_problem_hint(problem, "Install the loopguard-top that came with that agent.");
}

static void
foreign_machine(struct lg_problem *problem, const uint8_t *page, size_t page_size)
{
    const uint32_t one = 1;
    const char *other = *(const uint8_t *)&one == 1 ? "big" : "little";
    unsigned bytes = 0;
    if (page != NULL && page_size >= AT_POINTER_SIZE + 2) {
        bytes = page[AT_POINTER_SIZE] | page[AT_POINTER_SIZE + 1];
    }
    if (bytes == 4 || bytes == 8) {
        set_text(problem, "other_machine", LG_EXIT_SEGMENT,
                 "written on another kind of machine (%s endian, %u bit)", other, bytes * 8);
    }
    else {
        set_text(problem, "other_machine", LG_EXIT_SEGMENT,
                 "written on another kind of machine (%s endian)", other);
    }
}
