// Times a program from posix_spawn to exit, interleaved with a second one. Usage: spawn_time ROUNDS PROGRAM_A PROGRAM_B
// The programs get CNI_COMMAND=VERSION and a VERSION request on stdin. Prints one line per run: "a|b MICROSECONDS KB".
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int run_once(const char* path, double* us, long* kb) {
  static const char request[] = "{\"cniVersion\":\"1.0.0\"}";
  int in[2];
  if (pipe(in) != 0) return -1;
  if (write(in[1], request, sizeof request - 1) < 0) return -1;
  close(in[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], 0);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  char* argv[] = {(char*)path, NULL};
  char* env[] = {"CNI_COMMAND=VERSION", NULL};
  pid_t pid;
  double start = now_us();
  int failed = posix_spawn(&pid, path, &actions, NULL, argv, env);
  struct rusage usage;
  int status = 0;
  if (failed == 0 && wait4(pid, &status, 0, &usage) != pid) failed = 1;
  *us = now_us() - start;
  *kb = usage.ru_maxrss;
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  return failed != 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0 ? -1 : 0;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  long rounds = strtol(argv[1], NULL, 10);
  for (long round = 0; round < rounds; round++) {
    for (int which = 0; which < 2; which++) {
      double us;
      long kb;
      if (run_once(argv[2 + which], &us, &kb) != 0) {
        fprintf(stderr, "%s failed\n", argv[2 + which]);
        return 1;
      }
      printf("%c %.1f %ld\n", which == 0 ? 'a' : 'b', us, kb);
    }
  }
  return 0;
}
