#include "datagram_runs.h"

#include <gtest/gtest.h>

namespace vu::test {
namespace {

TEST(DatagramRuns, AreTakenByKernelsFromSixPointNineOn) {
  for (const char* release : {"6.9.0", "6.12.9+deb13-amd64", "6.18.44-cloud", "7.0.0-rc1", "10.1"}) {
    EXPECT_TRUE(takesDatagramRuns(release)) << release;
  }
  for (const char* release :
       {"6.8.0-31-generic", "6.1.0-18-amd64", "5.14.0-427.el9.x86_64", "4.19", "6", "", "six.nine"}) {
    EXPECT_FALSE(takesDatagramRuns(release)) << release;
  }
}

}  // namespace
}  // namespace vu::test
