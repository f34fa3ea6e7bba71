/*
 * top_main.c - loopguard-top: which workers, shown how, with what exit status.
 *
 * Everything but the screens: choosing workers (pids, files, one application,
 * all), waiting for them, --list, --prune, --once, --batch, --json. The
 * terminal is lg_screen_run()'s. Dies by signals as the shell expects.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../common/lg_clock.h"
#include "../common/lg_copy.h"
#include "../common/lg_error.h"
#include "../common/lg_segment.h"
#include "find.h"
#include "list.h"
#include "model.h"
#include "options.h"
#include "print_once.h"
#include "screen.h"
#include "top_json.h"

#define PROGRAM "loopguard-top"
#define POLL_NS (100 * LG_NS_PER_MS)    /* --wait looks ten times a second */

/* How the result is shown. */
enum mode { MODE_SCREEN, MODE_ONCE, MODE_BATCH };

static int run(const struct lg_options *options);
static enum mode choose_mode(const struct lg_options *options);
static int choose_workers(const struct lg_options *options, enum mode mode, struct lg_sources *out,
                          struct lg_problems *problems);
static void choose_files(const struct lg_options *options, struct lg_sources *out,
                         struct lg_problems *problems);
static void choose_pids(const struct lg_options *options, enum mode mode, struct lg_sources *out,
                        struct lg_problems *problems);
static int choose_application(const struct lg_options *options, enum mode mode,
                              struct lg_sources *out, struct lg_problems *problems);
static size_t ask_which(const struct lg_sources *sources, const size_t *application_of,
                        size_t count);
static void keep_application(struct lg_sources *sources, const size_t *application_of,
                             size_t wanted);
static void no_worker(const struct lg_sources *found, struct lg_problems *problems);
static bool worth_waiting(const struct lg_problems *problems);
static int list(const struct lg_options *options);
static int prune(const struct lg_options *options);
static int show(const struct lg_options *options, enum mode mode, struct lg_sources *sources,
                struct lg_problems *problems);
static int print_frames(const struct lg_options *options, enum mode mode, struct lg_top *top);
static void print_frame(const struct lg_options *options, struct lg_top *top);
static void tell_notes(const struct lg_options *options, struct lg_top *top);
static void tell_ends(struct lg_top *top);
static bool any_alive(const struct lg_top *top);
static int fail(const struct lg_options *options, const struct lg_problems *problems);
static void add_source(struct lg_sources *sources, const struct lg_source *source);
static void pause_ns(uint64_t ns);

int
main(int argc, char **argv)
{
    struct lg_options options;
    int status = lg_options_parse_top(argc, argv, &options, stderr);
    if (status == 0) {
        switch (options.action) {
        case LG_ACTION_HELP:
            lg_options_help_top(stdout);
            break;
        case LG_ACTION_VERSION:
            lg_options_version(PROGRAM, stdout);
            break;
        case LG_ACTION_SORT_KEYS:
            lg_options_sort_keys(stdout);
            break;
        default:
            status = run(&options);
            break;
        }
    }
    if (fflush(stdout) != 0 && errno != EPIPE) {
        fprintf(stderr, PROGRAM ": standard output: %s\n", strerror(errno));
        status = status != 0 ? status : LG_EXIT_ERROR;
    }
    lg_options_free(&options);
    return status;
}

static int
run(const struct lg_options *options)
{
    struct lg_sources sources = {0};
    struct lg_problems problems = {0};
    if (options->prune) {
        return prune(options);
    }
    if (options->list) {
        return list(options);
    }
    int err = lg_copy_guard();
    if (err != 0) {
        fprintf(stderr, PROGRAM ": %s\n", lg_strerror(err));
        return LG_EXIT_ERROR;
    }
    enum mode mode = choose_mode(options);
    int status = choose_workers(options, mode, &sources, &problems);
    uint64_t end = lg_now_ns() + (uint64_t)(options->wait_s > 0 ? options->wait_s * 1e9 : 0);
    while (status == 0 && options->wait && sources.count == 0 && worth_waiting(&problems) &&
           (options->wait_s < 0 || lg_now_ns() < end)) {
        pause_ns(POLL_NS);
        lg_problems_free(&problems);
        status = choose_workers(options, mode, &sources, &problems);
    }
    if (status == 0) {
        status =
            sources.count > 0 ? show(options, mode, &sources, &problems) : fail(options, &problems);
    }
    lg_sources_free(&sources);
    lg_problems_free(&problems);
    return status;
}

/* A screen if there is a terminal to draw on and nothing else was asked. */
static enum mode
choose_mode(const struct lg_options *options)
{
    const char *term = getenv("TERM");
    if (options->batch) {
        return MODE_BATCH;
    }
    if (options->once || options->json) {
        return MODE_ONCE;
    }
    if (!isatty(STDOUT_FILENO)) {
        if (options->mouse || options->bell) {
            fprintf(stderr, PROGRAM
                    ": standard output is not a terminal; printing once "
                    "(use --batch to repeat)\n");
        }
        return MODE_ONCE;
    }
    if (term != NULL && strcmp(term, "dumb") == 0) {
        fprintf(stderr, PROGRAM ": a dumb terminal has no screen; printing once\n");
        return MODE_ONCE;
    }
    return MODE_SCREEN;
}

/* ---- which workers ----------------------------------------------------- */

/* 0 with or without sources, or an exit status when there is nothing more to
 * be said. */
static int
choose_workers(const struct lg_options *options, enum mode mode, struct lg_sources *out,
               struct lg_problems *problems)
{
    if (options->file_count > 0) {
        choose_files(options, out, problems);
        return 0;
    }
    if (options->pid_count > 0) {
        choose_pids(options, mode, out, problems);
        return 0;
    }
    return choose_application(options, mode, out, problems);
}

static void
choose_files(const struct lg_options *options, struct lg_sources *out, struct lg_problems *problems)
{
    for (size_t i = 0; i < options->file_count; i++) {
        struct lg_source source;
        struct lg_problem problem;
        if (lg_find_file(options->files[i], &source, &problem) == 0) {
            add_source(out, &source);
        }
        else {
            lg_problems_add(problems, &problem);
        }
    }
}

static void
choose_pids(const struct lg_options *options, enum mode mode, struct lg_sources *out,
            struct lg_problems *problems)
{
    for (size_t i = 0; i < options->pid_count; i++) {
        struct lg_source source;
        struct lg_problem problem = {0};
        if (lg_find_pid(options->pids[i], options->dir, &source, &problem) == 0) {
            add_source(out, &source);
            continue;
        }
        if (problem.child_count == 0 || mode != MODE_SCREEN) {
            lg_problems_add(problems, &problem);
            continue;
        }
        /* With somebody in front of it: do at once what the hint says. */
        fprintf(stderr, PROGRAM ": %s: %s; watching them\n", problem.subject, problem.text);
        for (size_t k = 0; k < problem.child_count; k++) {
            struct lg_problem of_child;
            if (lg_find_pid(problem.children[k], options->dir, &source, &of_child) == 0) {
                add_source(out, &source);
            }
        }
    }
}

static int
choose_application(const struct lg_options *options, enum mode mode, struct lg_sources *out,
                   struct lg_problems *problems)
{
    lg_find_all(options->dir, out, problems);
    if (options->name != NULL) {
        lg_find_keep_name(out, options->name);
    }
    if (out->count > 0 && (options->all || options->name != NULL)) {
        return 0;
    }
    size_t *application_of = calloc(out->count + 1, sizeof(*application_of));
    if (application_of == NULL) {
        fprintf(stderr, PROGRAM ": %s\n", strerror(ENOMEM));
        return LG_EXIT_ERROR;
    }
    size_t count = lg_find_applications(out, application_of);
    int status = 0;
    if (count == 0) {
        no_worker(out, problems);
        lg_sources_free(out);
    }
    else if (count > 1 && mode != MODE_SCREEN) {
        struct lg_problem problem;
        lg_problem_set(&problem, 0, "", "several_applications", LG_EXIT_USAGE,
                       "%zu applications found; name a PID, or use --all or --name", count);
        lg_problems_add(problems, &problem);
        if (options->json) {
            lg_problem_print(PROGRAM, &problem);
            lg_list_json(out, problems, stdout);
        }
        else {
            lg_problem_print(PROGRAM, &problem);
            lg_list_print(out, stderr);
        }
        status = LG_EXIT_USAGE;
    }
    else {
        size_t wanted = count > 1 ? ask_which(out, application_of, count) : 0;
        if (wanted == (size_t)-1) {
            status = LG_EXIT_USAGE;
        }
        else {
            keep_application(out, application_of, wanted);
        }
    }
    free(application_of);
    return status;
}

/* On the terminal: a numbered list, one line read from it. */
static size_t
ask_which(const struct lg_sources *sources, const size_t *application_of, size_t count)
{
    size_t answer = (size_t)-1;
    char line[64];
    FILE *tty = fopen("/dev/tty", "r+e");
    if (tty == NULL) {
        return answer;
    }
    fprintf(tty, "%zu applications:\n", count);
    for (size_t a = 0; a < count; a++) {
        size_t workers = 0;
        const struct lg_source *first = NULL;
        for (size_t i = 0; i < sources->count; i++) {
            if (application_of[i] == a && sources->list[i].life == LG_ALIVE) {
                first = first == NULL ? &sources->list[i] : first;
                workers++;
            }
        }
        char app[256];
        lg_text_clean(first->geo.proc.app, sizeof(first->geo.proc.app), app, sizeof(app));
        fprintf(tty, "  %zu  %s  (%zu worker%s, %s)\n", a + 1, app, workers,
                workers == 1 ? "" : "s", first->label);
    }
    fprintf(tty, "Which? [1] ");
    fflush(tty);
    if (fgets(line, sizeof(line), tty) != NULL) {
        char *end;
        unsigned long n = strtoul(line, &end, 10);
        bool empty = line[0] == '\n';
        answer = empty ? 0 : n >= 1 && n <= count ? n - 1 : (size_t)-1;
    }
    if (answer == (size_t)-1) {
        fprintf(tty, "No such application.\n");
    }
    fclose(tty);
    return answer;
}

static void
keep_application(struct lg_sources *sources, const size_t *application_of, size_t wanted)
{
    size_t kept = 0;
    for (size_t i = 0; i < sources->count; i++) {
        if (application_of[i] == wanted) {
            sources->list[kept++] = sources->list[i];
        }
        else {
            lg_source_close(&sources->list[i]);
        }
    }
    sources->count = kept;
}

static void
no_worker(const struct lg_sources *found, struct lg_problems *problems)
{
    struct lg_problem problem;
    if (problems->count > 0) {
        return;                         /* what stands in the way says more */
    }
    lg_problem_set(&problem, 0, "", "no_worker", LG_EXIT_NOTHING,
                   "no worker with the loopguard agent found");
    if (found->count > 0) {
        const struct lg_source *last = &found->list[found->count - 1];
        lg_problem_hint(&problem, "%zu ended worker%s left a file: loopguard-top --file=%s",
                        found->count, found->count == 1 ? "" : "s", last->path);
    }
    lg_problems_add(problems, &problem);
}

/* What may still come to be: not a wrong permission or a foreign file. */
static bool
worth_waiting(const struct lg_problems *problems)
{
    for (size_t i = 0; i < problems->count; i++) {
        const char *code = problems->list[i].code;
        if (problems->list[i].exit_status != LG_EXIT_NOTHING && strcmp(code, "empty") != 0) {
            return false;
        }
    }
    return true;
}

static void
add_source(struct lg_sources *sources, const struct lg_source *source)
{
    if (sources->count == sources->room) {
        size_t room = sources->room != 0 ? 2 * sources->room : 8;
        struct lg_source *larger = realloc(sources->list, room * sizeof(*larger));
        if (larger == NULL) {
            close(source->fd);
            return;
        }
        sources->list = larger;
        sources->room = room;
    }
    sources->list[sources->count++] = *source;
}

/* ---- without a model --------------------------------------------------- */

static int
list(const struct lg_options *options)
{
    struct lg_sources sources = {0};
    struct lg_problems problems = {0};
    int status = LG_EXIT_OK;
    if (options->file_count > 0) {
        choose_files(options, &sources, &problems);
    }
    else if (options->pid_count > 0) {
        choose_pids(options, MODE_ONCE, &sources, &problems);
    }
    else {
        lg_find_all(options->dir, &sources, &problems);
    }
    if (options->name != NULL) {
        lg_find_keep_name(&sources, options->name);
    }
    if (sources.count == 0) {
        no_worker(&sources, &problems);
        status = problems.list[0].exit_status;
    }
    for (size_t i = 0; i < problems.count; i++) {
        lg_problem_print(PROGRAM, &problems.list[i]);
    }
    if (options->json) {
        lg_list_json(&sources, &problems, stdout);
    }
    else if (sources.count > 0) {
        lg_list_print(&sources, stdout);
    }
    lg_sources_free(&sources);
    lg_problems_free(&problems);
    return status;
}

static int
prune(const struct lg_options *options)
{
    int removed = lg_segment_prune(options->dir, true);
    if (removed < 0) {
        fprintf(stderr, PROGRAM ": %s: %s\n", options->dir != NULL ? options->dir : "/dev/shm",
                lg_strerror(removed));
        return removed == -EACCES ? LG_EXIT_PERMISSION : LG_EXIT_ERROR;
    }
    printf("%d file%s of ended workers removed\n", removed, removed == 1 ? "" : "s");
    return LG_EXIT_OK;
}

static int
fail(const struct lg_options *options, const struct lg_problems *problems)
{
    struct lg_sources none = {0};
    for (size_t i = 0; i < problems->count; i++) {
        lg_problem_print(PROGRAM, &problems->list[i]);
    }
    if (options->json) {
        lg_list_json(&none, problems, stdout);
    }
    return problems->count > 0 ? problems->list[0].exit_status : LG_EXIT_NOTHING;
}

/* ---- with one ---------------------------------------------------------- */

static int
show(const struct lg_options *options, enum mode mode, struct lg_sources *sources,
     struct lg_problems *problems)
{
    struct lg_top *top;
    int status = LG_EXIT_OK;
    if (lg_top_new(&top) != 0) {
        fprintf(stderr, PROGRAM ": %s\n", strerror(ENOMEM));
        return LG_EXIT_ERROR;
    }
    for (size_t i = 0; i < sources->count; i++) {
        struct lg_problem problem;
        if (lg_top_add(top, &sources->list[i], &problem) != 0) {
            lg_problems_add(problems, &problem);
            continue;
        }
    }
    for (size_t i = 0; i < top->worker_count; i++) {
        struct lg_problem problem;
        if (lg_worker_problem(top->workers[i], &problem)) {
            lg_problems_add(problems, &problem);
            status = problem.exit_status > status ? problem.exit_status : status;
        }
    }
    if (top->worker_count == 0) {
        lg_top_free(top);
        return fail(options, problems);
    }
    for (size_t i = 0; i < problems->count; i++) {
        lg_problem_print(PROGRAM, &problems->list[i]);
        lg_problems_add(&top->problems, &problems->list[i]);
    }
    if (options->file_count == 0 && options->pid_count == 0) {
        lg_top_follow(top, options->dir, options->name, options->all);
    }
    lg_top_refresh(top);
    if (mode == MODE_SCREEN) {
        int end = lg_screen_run(top, options);
        status = end != 0 ? end : status;
        tell_ends(top);
    }
    else {
        tell_notes(options, top);
        int end = print_frames(options, mode, top);
        status = end != 0 ? end : status;
    }
    lg_top_free(top);
    return status;
}

static int
print_frames(const struct lg_options *options, enum mode mode, struct lg_top *top)
{
    uint64_t frames = 0;
    for (;;) {
        print_frame(options, top);
        if (fflush(stdout) != 0) {
            if (errno == EPIPE) {
                return LG_EXIT_OK;      /* --batch | head */
            }
            fprintf(stderr, PROGRAM ": standard output: %s\n", strerror(errno));
            return LG_EXIT_ERROR;
        }
        frames++;
        if (mode == MODE_ONCE || (options->count != 0 && frames == options->count)) {
            return LG_EXIT_OK;
        }
        if (!any_alive(top)) {
            tell_ends(top);
            return LG_EXIT_OK;
        }
        pause_ns((uint64_t)(options->delay_s * 1e9));
        lg_top_refresh(top);
    }
}

static void
print_frame(const struct lg_options *options, struct lg_top *top)
{
    struct lg_paint paint = lg_paint_for(lg_options_use_color(options, STDOUT_FILENO));
    /* Nobody asks for the last ten seconds of the dead: their last minute stands
     * in the header, the table shows their whole life. */
    struct lg_view view = options->view;
    if (!options->window_given && !any_alive(top)) {
        view.window = LG_WINDOW_TOTAL;
    }
    if (options->json) {
        lg_top_json(top, &view, options->events, stdout);
        return;
    }
    if (options->events) {
        lg_print_events(top, &view, paint, stdout);
    }
    else {
        lg_print_once(top, &view, paint, stdout);
    }
    if (options->batch) {
        putchar('\n');
    }
}

/* What a reader of a pipe would take for the present otherwise. */
static void
tell_notes(const struct lg_options *options, struct lg_top *top)
{
    for (size_t i = 0; i < top->worker_count; i++) {
        const struct lg_worker *w = top->workers[i];
        char when[LG_TEXT];
        if (w->post_mortem && (options->pid_count > 0 || options->file_count > 0)) {
            fprintf(stderr, PROGRAM ": %s: this process has ended; showing its last state of %s\n",
                    w->label, lg_format_clock(w->ended_real_ns, 0, false, when, sizeof(when)));
        }
    }
}

static void
tell_ends(struct lg_top *top)
{
    for (size_t i = 0; i < top->worker_count; i++) {
        const struct lg_worker *w = top->workers[i];
        char when[LG_TEXT];
        if (w->ended_while_watched) {
            fprintf(stderr, PROGRAM ": %s exited at %s\n", w->label,
                    lg_format_clock(w->ended_real_ns, 0, false, when, sizeof(when)));
        }
    }
}

static bool
any_alive(const struct lg_top *top)
{
    for (size_t i = 0; i < top->worker_count; i++) {
        if (!top->workers[i]->post_mortem && top->workers[i]->state != LG_WORKER_CUT) {
            return true;
        }
    }
    return false;
}

static void
pause_ns(uint64_t ns)
{
    struct timespec left = {.tv_sec = (time_t)(ns / LG_NS_PER_S),
                            .tv_nsec = (long)(ns % LG_NS_PER_S)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {}
}
