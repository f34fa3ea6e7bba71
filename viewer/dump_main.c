/*
 * dump_main.c - loopguard-dump: one segment, live, dead or copied, written out.
 *
 * Reads only. An output file is written beside its name and renamed when it is
 * whole: a full disk leaves the old one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../common/lg_copy.h"
#include "../common/lg_error.h"
#include "dump.h"
#include "find.h"
#include "options.h"

#define PROGRAM "loopguard-dump"

static int run(const struct lg_options *options);
static int open_worker(const struct lg_options *options, struct lg_top *top);
static int write_to(const struct lg_options *options, struct lg_top *top);
static int write_beside(const struct lg_options *options, struct lg_top *top);
static bool write_all(const struct lg_options *options, struct lg_top *top, FILE *out);

int
main(int argc, char **argv)
{
    struct lg_options options;
    int status = lg_options_parse_dump(argc, argv, &options, stderr);
    if (status == 0 && options.action == LG_ACTION_HELP) {
        lg_options_help_dump(stdout);
    }
    else if (status == 0 && options.action == LG_ACTION_VERSION) {
        lg_options_version(PROGRAM, stdout);
    }
    else if (status == 0) {
        status = run(&options);
    }
    lg_options_free(&options);
    return status;
}

static int
run(const struct lg_options *options)
{
    struct lg_top *top;
    int err = lg_copy_guard();
    if (err == 0) {
        err = lg_top_new(&top);
    }
    if (err != 0) {
        fprintf(stderr, PROGRAM ": %s\n", lg_strerror(err));
        return LG_EXIT_ERROR;
    }
    int status = open_worker(options, top);
    if (status == 0) {
        lg_top_refresh(top);
        lg_dump_report(top, PROGRAM);
        status = write_to(options, top);
    }
    lg_top_free(top);
    return status;
}

static int
open_worker(const struct lg_options *options, struct lg_top *top)
{
    struct lg_source source;
    struct lg_problem problem = {0};
    int err = options->file_count > 0
                  ? lg_find_file(options->files[0], &source, &problem)
                  : lg_find_pid(options->pids[0], options->dir, &source, &problem);
    if (err == 0) {
        err = lg_top_add(top, &source, &problem);
    }
    if (err != 0) {
        lg_problem_print(PROGRAM, &problem);
        return problem.exit_status;
    }
    return LG_EXIT_OK;
}

static int
write_to(const struct lg_options *options, struct lg_top *top)
{
    if (options->output != NULL && strcmp(options->output, "-") != 0) {
        return write_beside(options, top);
    }
    if (!write_all(options, top, stdout)) {
        if (errno == EPIPE) {
            return LG_EXIT_OK;
        }
        fprintf(stderr, PROGRAM ": standard output: %s\n", strerror(errno));
        return LG_EXIT_ERROR;
    }
    return LG_EXIT_OK;
}

static int
write_beside(const struct lg_options *options, struct lg_top *top)
{
    size_t size = strlen(options->output) + 16;
    char *beside = malloc(size);
    int fd = -1;
    FILE *out = NULL;
    bool made = false;
    bool good = false;
    if (beside != NULL) {
        snprintf(beside, size, "%s.XXXXXX", options->output);
        fd = mkstemp(beside);
        made = fd >= 0;
    }
    if (fd >= 0) {
        mode_t mask = umask(0);
        umask(mask);
        fchmod(fd, 0666 & ~mask);       /* as a plain open() would have made it */
        out = fdopen(fd, "w");
    }
    if (out != NULL) {
        good = write_all(options, top, out) && fsync(fd) == 0;
        int err = errno;
        good = fclose(out) == 0 && good;
        errno = err;
        fd = -1;
    }
    good = good && rename(beside, options->output) == 0;
    if (!good) {
        int err = errno;
        fprintf(stderr, PROGRAM ": %s: %s; nothing was replaced\n", options->output, strerror(err));
        if (made) {
            unlink(beside);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    free(beside);
    return good ? LG_EXIT_OK : LG_EXIT_ERROR;
}

static bool
write_all(const struct lg_options *options, struct lg_top *top, FILE *out)
{
    errno = 0;
    if (strcmp(options->format, "json") == 0) {
        lg_dump_json(top, out);
    }
    else {
        lg_dump_text(top, out);
    }
    return fflush(out) == 0 && !ferror(out);
}
